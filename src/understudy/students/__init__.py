"""Causal velocity fields, their block cache, and the one rollout used for training, generation and streaming."""
