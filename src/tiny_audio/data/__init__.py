"""The data pipeline: sources, the sampling plan, and the loader."""
