"""A text-to-video pipeline of diffusers."""
