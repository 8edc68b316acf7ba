"""Public checkpoints of the Wan2.1 causal family, in and out: strict in both directions, never executing what they hold."""
