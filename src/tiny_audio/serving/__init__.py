"""Trained models behind servers of others; nothing here is imported unless such a server asks for it."""
