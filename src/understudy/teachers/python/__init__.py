"""A teacher of your own, from Python."""
