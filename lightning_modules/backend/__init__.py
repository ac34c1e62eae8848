"""The backend that all algorithms share: the DeepSpeed strategy, its meters and the start of ranks."""
