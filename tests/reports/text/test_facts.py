"""What a report states of what was run."""

from dataclasses import replace

from paceline.reports.measures.results import Results
from tests.told import given


def test_what_was_run_is_stated(whole: Results) -> None:
    facts = dict(given(whole)["facts"])
    assert facts["Workload"] == "linear rule: Tower (lr = 0.1)"
    assert "click rate 25.00 %" in facts["Data"]
    assert "0.5623" in facts["Data"]
    assert "0.4000" in facts["Data"]
    assert facts["Algorithms"] == "baseline on 1 worker\nsynchronous SGD on 2 and 4 workers"
    assert facts["Partition"] == "iid"
    assert "Fault" not in facts
    assert facts["Scale"].startswith("batch of 10 examples per worker (weak scaling)")
    assert facts["Seeds"] == "0 and 1"
    assert facts["Code"] == "commit 0123456789ab, with uncommitted changes"


def test_a_partition_is_told_with_the_parameter_that_matters_and_a_fault_where_there_is_one(
    whole: Results,
) -> None:
    config = dict(whole.benchmark["benchmark"])
    labels = {"kind": "labels", "shards": 2, "alpha": 0.5}
    dirichlet = labels | {"kind": "dirichlet", "alpha": 0.1}
    config |= {
        "partition": dirichlet,
        "fault": {"kind": "slow", "rank": 1, "step": 5, "factor": 4.0},
    }
    own = config["algorithms"]["sync_sgd"] | {"partition": labels}
    config["algorithms"] = config["algorithms"] | {"sync_sgd": own}
    facts = dict(given(replace(whole, benchmark=whole.benchmark | {"benchmark": config}))["facts"])
    assert facts["Partition"] == "dirichlet, alpha 0.1"
    assert facts["Fault"] == (
        "on purpose, rank 1 takes 4 times as long for each step from step 5 on"
    )
    assert "synchronous SGD (partition = labels, 2 shards per replica) on" in facts["Algorithms"]


def test_a_budget_that_differs_is_told(whole: Results) -> None:
    config = dict(whole.benchmark["benchmark"])
    own = {"budget": {"examples": 2000, "epochs": 3.5, "evaluations": 7}}
    sync_sgd = config["algorithms"]["sync_sgd"] | own
    config["algorithms"] = config["algorithms"] | {"sync_sgd": sync_sgd}
    shown = given(replace(whole, benchmark=whole.benchmark | {"benchmark": config}))
    facts = dict(shown["facts"])
    assert shown["notes"][-1] == (
        "synchronous SGD has a budget of its own, so final losses are not after the same number of"
        " examples."
    )
    assert "budget" not in " ".join(given(whole)["notes"])
    budget = "2,000 examples or 3.5 epochs, whichever comes first; 7 evaluations"
    assert f"synchronous SGD (budget = {budget}) on" in facts["Algorithms"]


def test_runs_from_before_there_were_partitions_and_faults_have_none(whole: Results) -> None:
    config = dict(whole.benchmark["benchmark"])
    del config["partition"], config["fault"]
    facts = dict(given(replace(whole, benchmark=whole.benchmark | {"benchmark": config}))["facts"])
    assert not {"Partition", "Fault"} & set(facts)
