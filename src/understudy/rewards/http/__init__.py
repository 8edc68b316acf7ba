"""A reward behind an address."""
