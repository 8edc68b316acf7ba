"""The causal Wan2.1 family: one student for Self-Forcing, Causal-Forcing, LongLive and CausVid checkpoints."""
