"""Experiment trackers that show what a run writes: curves, gauges and clips. The run's own files stay the record."""
