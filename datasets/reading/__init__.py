"""Reads the formats in which data sets come, and caches their rows."""
