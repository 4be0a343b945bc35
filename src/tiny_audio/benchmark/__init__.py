"""What a training step costs on this machine, at the published widths and with random weights: nothing is loaded."""
