"""One step, one loop, one state, one checkpoint."""
