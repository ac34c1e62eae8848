"""Readers of the formats of the data sets, and the cache of their rows."""
