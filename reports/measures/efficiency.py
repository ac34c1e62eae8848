"""The definitions of hardware efficiency and statistical efficiency."""

import pandas as pd


def hardware(trials: pd.DataFrame, base: pd.DataFrame, rate: str) -> "pd.Series[float]":
    """Examples per second of one worker, relative to one worker of `base`.

    If `base` is the reference of a benchmark, the result is the hardware efficiency. If `base` is the
    same algorithm on one worker, the result is the scaling efficiency.

    Args:
        trials: trials of any configuration.
        base: trials of one configuration. The function takes their mean over seeds.
        rate: the column of examples per second.
    """
    of_base = (base[rate] / base["workers"]).mean()
    return trials[rate] / trials["workers"] / of_base


def statistical(trials: pd.DataFrame, base: pd.DataFrame) -> "pd.Series[float]":
    """Examples to the target of `base` (mean over seeds), divided by those of each trial."""
    return base["examples_to_target"].mean() / trials["examples_to_target"]
