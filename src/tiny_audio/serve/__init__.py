"""`ta serve`: an API that OpenAI's clients understand, and a page to try a model on."""
