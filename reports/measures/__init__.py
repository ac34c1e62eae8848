"""Reads the figures of trials from the store, scores them and compares them."""
