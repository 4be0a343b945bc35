"""Curves of runs, for people without any account: one picture, or one page."""
