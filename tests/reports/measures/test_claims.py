"""Claims as data: what they may state, and that the shipped ones fit the benchmarks that test them."""

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from paceline.benchmarks.spec.reading import load_benchmark
from paceline.reports.measures.claims import Claim, ClaimError, read_claims
from paceline.reports.measures.verdicts import departures
from tests.reports.measures.claims_store import CLAIM

# Settings on which no claim depends, that its sides state themselves (workers), that only real data or
# another kind of partition or fault read, or that the data give the model.
FREE = re.compile(
    r"name|workload\.name|seeds|sweep.*|scale\.(workers|threads|accelerator|nodes|workers_per_node)|.*\.(workers|source|defaults)"
    r"|workload\.data\.arguments\.(cache_dir|on_bad_rows|validation_fraction|test_rows)"
    r"|(.*\.)?partition\.(shards|alpha)|fault\.(rank|step|factor)"
    r"|workload\.task\.arguments\.(integers|categoricals)"
)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"at_most": 75.0},
            "half the steps: the bound at most 75 is none of a ratio, from 0.01 to",
        ),
        ({"at_most": 0.001}, "the bound at most 0.001 is none of a ratio"),
        ({"at_least": 75.0, "at_most": float("inf")}, "the bound at least 75 is none of a ratio"),
        ({"at_least": 0.7}, "the bound 0.7 to 0.6 is none of a ratio"),
        ({"at_most": float("inf")}, "the bound at least 0 is none of a ratio"),
        ({"measure": "stalenes"}, "no measure 'stalenes'; did you mean 'staleness'?"),
        ({"measure": "fall of primal_residul"}, "did you mean 'fall of primal_residual'?"),
        ({"against_measure": "chrun"}, "no measure 'chrun'; did you mean 'churn'?"),
        ({"of": "new"}, "'new' is not ALGORITHM@WORKERS"),
        ({"against": "old@two"}, "'old@two' is not ALGORITHM@WORKERS"),
        ({"measure": "churn", "against": 1.0}, "churn is compared with churn, not with 1.0"),
    ],
)
def test_what_a_claim_cannot_state_is_told(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ClaimError) as told:
        replace(CLAIM, **wrong)
    assert message in str(told.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"at_mots": 0.5}, "at_mots"),
        ({"benchmark": "claim"}, "'claim'"),
        ({"at_most": 75}, "half the steps: the bound at most 75"),
    ],
)
def test_a_file_of_claims_is_wrong_in_one_line(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    entry = {k: v for k, v in asdict(CLAIM).items() if k not in ("conditions", "at_least")} | change
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({"conditions": {"b": {}}, "claims": [entry]}))
    with pytest.raises(ClaimError) as told:
        read_claims(file)
    assert str(told.value).startswith("own.yaml: ")
    assert message in str(told.value)
    assert "\n" not in str(told.value)


def test_the_shipped_claims_compare_what_their_benchmark_runs() -> None:
    claims = read_claims()
    assert len({claim.name for claim in claims}) == len(claims) >= 11
    for claim in claims:
        trials = load_benchmark(claim.benchmark, []).trials()
        assert set(claim.sides) <= {f"{trial.label}@{trial.workers}" for trial in trials}


@pytest.mark.parametrize("name", ["claims", "claims-codistillation"])
def test_a_shipped_benchmark_meets_the_conditions_and_no_other_setting_does(name: str) -> None:
    """A setting that no claim minds has to be named above; a new one has to be decided on."""
    resolved = asdict(load_benchmark(name, []))
    claims = [claim for claim in read_claims() if claim.benchmark == name]
    for claim in claims:
        assert list(departures(claim, resolved)) == []
    for place in leaves(resolved):
        minded = [c for c in claims if list(departures(c, changed(resolved, place)))]
        side = f"{place.split('.')[1]}@" if place.startswith("algorithms.") else ""
        about = [c for c in claims if any(s.startswith(side) for s in c.sides)]
        assert minded == ([] if FREE.fullmatch(place) else about), place


def leaves(section: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key, value in section.items():
        inner = isinstance(value, dict) and value
        found += leaves(value, f"{prefix}{key}.") if inner else [f"{prefix}{key}"]
    return found


def changed(section: Any, place: str) -> dict[str, Any]:
    key, _, rest = place.partition(".")
    return section | {key: changed(section[key], rest) if rest else "changed"}


def test_conditions_are_of_the_sides_alone() -> None:
    conditions = {"algorithms": {"new": {"tau": 5}, "third": {"tau": 5}}}
    claim: Claim = replace(CLAIM, conditions=conditions)
    other = {"algorithms": {"new": {"tau": 5}, "third": {"tau": 9}}}
    assert list(departures(claim, other)) == []
    other = {"algorithms": {"new": {"tau": 9}}}
    assert list(departures(claim, other)) == ["algorithms.new.tau = 5, not 9"]
