"""What is run: one YAML file per benchmark; how it is read, run, tuned and measured."""
