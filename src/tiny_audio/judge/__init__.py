"""Judging recognizers: any two on the same clips, and a report that people look at."""
