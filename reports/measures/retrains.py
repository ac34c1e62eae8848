"""Reproducibility: how much trials that should agree differ."""

from itertools import product
from statistics import fmean

import pandas as pd

from paceline.reports.measures.groups import called, configurations, counted, finished
from paceline.reports.measures.results import Results
from paceline.reports.measures.statistics import Served, churn


def served(results: Results, trials: pd.DataFrame, server: str = "model") -> Served:
    """The predictions of a configuration's trials on the first validation rows, by seed."""
    rows = zip(trials["seed"], trials["run_id"], strict=True)
    kept = ((int(seed), results.predictions.get(run_id, {})) for seed, run_id in rows)
    return {seed: predicted[server] for seed, predicted in kept if server in predicted}


def mean_churn(first: Served, second: Served) -> float:
    """The churn between two configurations: the mean over all pairs of different seeds.

    If both arguments are the same configuration, the result is the churn between its retrains.
    """
    pairs = [(a, b) for a, b in product(first, second) if a != b]
    return fmean(churn(first[a], second[b]) for a, b in pairs)


def reproducibility(results: Results) -> list[list[str]]:
    """Rows of a table: each kind of reproducibility and the result for these trials."""
    trials = finished(results)
    again = trials["rerun"].dropna()
    equal = counted(int((again == "bitwise equal").sum()), "trial")
    alike = [
        " = ".join(
            f"{called(results, algorithm, workers)} (seed {seed})"
            for algorithm, workers, seed in own[["algorithm", "workers", "seed"]].values.tolist()
        )
        for _, own in trials.groupby("weights_sha256", sort=False)
        if len(own) > 1
    ]
    rows = [
        [
            "bitwise: a trial run again from its record",
            f"{equal} of {len(again)} gave the same weights bit by bit"
            if len(again)
            else "no trial was run again; the command rerun does that",
        ],
        [
            "bitwise: trials with equal weights",
            "; ".join(alike) or "none, as different configurations and seeds should",
        ],
    ]
    several = [own for _, _, own in configurations(trials) if len(own) > 1]
    if several:
        deviations = [float(own["final_loss"].astype(float).std()) for own in several]
        loss = results.benchmark["loss_name"]
        text = f"{min(deviations):.5f} to {max(deviations):.5f} {loss}, the configurations' range"
        rows.append(["statistical: deviation of the final loss over seeds", text])
    kept = [by_seed for own in several if len(by_seed := served(results, own)) > 1]
    if kept:
        churns = [mean_churn(by_seed, by_seed) for by_seed in kept]
        text = f"{min(churns):.4f} to {max(churns):.4f}, likewise"
        rows.append(["churn between retrains", text])
    return rows
