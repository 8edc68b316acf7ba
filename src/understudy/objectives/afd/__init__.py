"""Adversarial flow distillation, the method."""
