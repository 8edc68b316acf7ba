"""Asking a teacher for clips and keeping every one of them, with where it came from."""
