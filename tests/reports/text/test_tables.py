"""The tables behind the figures."""

from mlflow.tracking import MlflowClient

from paceline.reports.measures.claims import read_claims
from paceline.reports.measures.results import Results
from tests.report_store import benchmark, fill
from tests.told import given, rows_of


def test_ratios_have_an_interval_over_seeds_and_count_where_it_leaves_out_one(
    whole: Results,
) -> None:
    rows = rows_of(whole, "Relative to the reference")
    # The target is reached at step 200 with seed 0 and at step 300 with seed 1, by everybody. Two
    # workers need twice the examples in 4/3 of the time, which is less than an evaluation more.
    assert rows["synchronous SGD on 2 workers"][:3] == [
        "1 [1, 1]",
        "2 [2, 2]",
        "1.333 [1.333, 1.333], within one evaluation",
    ]
    (table,) = [t for t in given(whole)["tables"] if t["title"] == "Relative to the reference"]
    assert [cell["strong"] for cell in table["rows"][0]] == [False, False, True, False, False]
    assert [cell["strong"] for cell in table["rows"][1]] == [False, False, True, False, True]


def test_one_seed_has_no_interval(partial: Results) -> None:
    assert all(t["title"] != "Relative to the reference" for t in given(partial)["tables"])


def test_retrains_show_their_churn(whole: Results) -> None:
    rows = rows_of(whole, "Would you get the same predictions")
    # Predictions of 0.49 and of 0.51: another label everywhere.
    assert rows["baseline on 1 worker"][0] == "2"
    assert rows["baseline on 1 worker"][2:] == ["0.0200", "1.0000", "–", "–"]


def test_claims_are_told_by_the_benchmark_that_tests_them(
    client: MlflowClient, whole: Results
) -> None:
    assert all(table["title"] != "Claims" for table in given(whole)["tables"])
    plan = benchmark("claims", {"sync_sgd": [2, 4]}, [0, 1])
    tested = fill(client, plan, lambda _: [0.7, 0.45])
    (table,) = [table for table in given(tested)["tables"] if table["title"] == "Claims"]
    assert {row[0]["text"] for row in table["rows"]} == {"not judged"}
    assert len(table["rows"]) == sum(claim.benchmark == "claims" for claim in read_claims()) > 1
