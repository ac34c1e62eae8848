"""What a worker is worth: the one definition of each efficiency."""

import pandas as pd


def hardware(trials: pd.DataFrame, base: pd.DataFrame, rate: str) -> "pd.Series[float]":
    """Examples per second of a worker, over those of a worker of `base`.

    Where `base` is the reference of a benchmark, this is hardware efficiency; where it is the same
    algorithm on one worker, scaling efficiency.

    Args:
        trials: of any configuration.
        base: trials of one configuration, of which the mean over seeds is taken.
        rate: the column of examples per second.
    """
    of_base = (base[rate] / base["workers"]).mean()
    return trials[rate] / trials["workers"] / of_base


def statistical(trials: pd.DataFrame, base: pd.DataFrame) -> "pd.Series[float]":
    """The examples that `base` needs to the target, the mean over seeds, over those of a trial."""
    return base["examples_to_target"].mean() / trials["examples_to_target"]
