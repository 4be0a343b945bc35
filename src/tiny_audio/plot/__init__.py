"""Curves of runs, without any account: one picture, or one page."""
