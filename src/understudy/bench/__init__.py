"""Grids of rows, settings and seeds on one footing: the same start, clips, updates and evaluation; one table."""
