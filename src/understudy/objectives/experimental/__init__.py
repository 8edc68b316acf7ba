"""Objectives that were tried and are not recommended; nothing outside depends on them."""
