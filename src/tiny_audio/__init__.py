"""Tiny Audio: train your own speech recogniser in an evening."""

__version__ = "0.1.0"
