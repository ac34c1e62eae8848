"""Tunes the algorithms of a benchmark: what is drawn, from which studies, for which objectives."""
