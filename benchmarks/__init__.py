"""The benchmarks, one YAML file each, and the code that reads, runs, tunes and measures them."""
