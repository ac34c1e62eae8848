"""The phases by which a rank counts its time and its messages."""

# The phases that belong to the algorithm. Setup, evaluation and checkpoints do not.
TRAINING = ("train", "exchange")
