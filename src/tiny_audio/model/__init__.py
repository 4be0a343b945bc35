"""Encoder, projectors, decoder, and their composition."""
