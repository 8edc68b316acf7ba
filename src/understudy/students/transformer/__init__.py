"""The small causal video transformer that trains on a CPU."""
