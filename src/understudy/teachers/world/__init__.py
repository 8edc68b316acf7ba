"""The embedded physics world: plain-English prompts, pymunk physics, two looks."""
