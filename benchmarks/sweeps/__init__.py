"""Tunes the algorithms of a benchmark: the studies, their search spaces and their objectives."""
