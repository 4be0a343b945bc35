"""Inspection of data before a run: what a configuration would train on, its faults, and what the model reads."""
