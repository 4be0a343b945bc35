"""A search for good settings on this machine: W&B's `sweep.yaml`, with Optuna in place of W&B's server."""
