"""The phases under which a rank books its time and its messages."""

# What belongs to the algorithm. Setting up, evaluating and writing checkpoints do not.
TRAINING = ("train", "exchange")
