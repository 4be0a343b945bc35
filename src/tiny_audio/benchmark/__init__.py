"""The cost of a training step on this machine, at the published widths, with random weights, so nothing is loaded."""
