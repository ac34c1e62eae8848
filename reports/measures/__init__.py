"""What the figures of a trial are, read from the store, scored and compared."""
