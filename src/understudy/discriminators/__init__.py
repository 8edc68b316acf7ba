"""Clip scores per prompt, the canonical form of a clip before scoring, and health gauges."""
