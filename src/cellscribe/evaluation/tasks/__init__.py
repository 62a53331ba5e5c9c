"""One file or folder a task: data in, scores of models and their baselines out."""
