"""A look at the data before a run: what a configuration would train on, what is wrong with it, what the model sees."""
