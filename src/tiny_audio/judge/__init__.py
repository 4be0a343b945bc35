"""Comparison of any two recognizers on the same clips, and a report for people."""
