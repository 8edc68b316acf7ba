"""What a run achieved: physics, motion, picture, distributions, with intervals and floors; and the report."""
