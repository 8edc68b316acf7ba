"""Understudy: distil any video generator you can only watch into a causal autoregressive model you own."""

__version__ = "0.1.0"
