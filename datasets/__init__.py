"""The data sets, one module per data set, and how examples are divided into parts and batches."""
