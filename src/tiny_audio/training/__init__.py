"""A training run: its parts, steps, checkpoints, resuming, figures."""
