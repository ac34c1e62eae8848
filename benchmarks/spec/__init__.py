"""The fields of a YAML, the code that reads it, and the checks of the classes that it names."""
