"""The method and its baselines: losses, rollouts, verdicts, updates; a folder for every objective."""
