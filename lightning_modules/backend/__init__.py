"""What every algorithm shares: one DeepSpeed strategy, its layout, its meters, and how ranks start."""
