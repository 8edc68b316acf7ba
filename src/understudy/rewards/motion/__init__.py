"""How much moves in a clip."""
