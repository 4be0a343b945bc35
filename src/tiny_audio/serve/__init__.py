"""`ta serve`: an API for OpenAI's clients, and a page to try a model."""
