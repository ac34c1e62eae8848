"""Datasets: one module each for reading, caching and partitioning, with embedded defaults."""
