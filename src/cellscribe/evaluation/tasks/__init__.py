"""Tasks, one file or folder each: they score models and their baselines on data."""
