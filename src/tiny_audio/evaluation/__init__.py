"""Scoring: error rates, and decoding a set."""
