"""Reward tilting."""
