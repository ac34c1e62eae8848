"""The models of the benchmarks, one file each, every one a `Task`."""
