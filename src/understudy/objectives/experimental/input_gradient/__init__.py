"""Input gradients."""
