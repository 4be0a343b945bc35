"""The life of a run: composition, steps, checkpoints, resuming, figures."""
