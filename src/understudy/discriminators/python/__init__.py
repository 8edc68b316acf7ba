"""A discriminator of your own, from Python."""
