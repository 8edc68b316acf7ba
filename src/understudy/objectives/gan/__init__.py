"""Direct adversarial training."""
