"""AnyFlow-FAR of diffusers as a student."""
