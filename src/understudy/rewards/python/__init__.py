"""A reward of your own, from Python."""
