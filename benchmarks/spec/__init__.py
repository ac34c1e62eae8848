"""What a YAML may say, how it is read, the classes that it names, and whether they fit."""
