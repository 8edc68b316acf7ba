"""Reverse-chain policy gradient."""
