"""A small whole-clip network."""
