"""The first page: the answer and the table under it."""

import json
from dataclasses import replace

import typst
from mlflow.tracking import MlflowClient

from paceline.benchmarks.spec.benchmark import Trial
from paceline.reports import pdf
from paceline.reports.figures import catalogue
from paceline.reports.measures.results import Results
from tests.report_store import benchmark, fill
from tests.told import given


def unlike(trial: Trial) -> list[float]:
    """The baseline reaches the target at step 500 or 600, synchronous SGD at step 200 or 300."""
    late = (5 if trial.label == "baseline" else 2) + trial.seed % 2
    return [0.9] * (late - 1) + [0.45]


def test_the_summary_gives_the_mean_and_the_spread_over_seeds(whole: Results) -> None:
    baseline, two, four = given(whole)["summary"]["rows"]
    assert baseline == [
        "baseline", "1", "2 of 2", "250\n200–300", "2.5\n2.0–3.0", "2.5\n2.0–3.0",
        "0 B", "0.4400", "400", "0.4400", "0.7000",
    ]  # fmt: skip
    assert two[6] == "10.0 kB\n8.00–12.0 kB"
    assert four[1] == "4†"


def test_the_question_and_what_the_answer_holds_for_are_told(whole: Results) -> None:
    content = given(whole)
    assert content["question"] == (
        "Which of 3 configurations reaches a validation log loss (nats) of at most 0.5 soonest, and"
        " which sends the fewest bytes until then?"
    )
    for part in (
        "Tower on click log (synthetic), 1,000 rows to train",
        "on 1, 2 and 4 workers of a CPU, 2 cores, no GPU",
        "times measured and modelled, ethernet-10g",
        "settings that this benchmark did not tune",
    ):
        assert part in content["scope"]


def test_a_winner_is_named_with_its_interval(client: MlflowClient) -> None:
    plan = benchmark("won", {"baseline": [1], "sync_sgd": [2]}, list(range(8)))
    soonest = given(fill(client, plan, unlike))["answer"][0]
    # In 8 seeds, 2 or 3 evaluations of 2/1.5 s against 5 or 6 of 1 s.
    assert soonest.startswith(
        "Least training time to the target, measured: synchronous SGD on 2 workers (3.3 s). Its ratio"
        " to the next, baseline on 1 worker (5.5 s), is 0.5963 ["
    )


def test_who_cannot_be_told_apart_is_named_with_the_seeds_that_would_do(
    client: MlflowClient,
) -> None:
    plan = benchmark("noise", {"baseline": [1], "sync_sgd": [2]}, [0, 1, 2])

    def own(trial: Trial, point: dict[str, float]) -> dict[str, float]:
        # Steps count from evaluations that are close together, so that the seeds alone decide.
        factor = {("baseline", 0): 9.0, ("baseline", 2): 1.5}.get((trial.label, trial.seed), 4.0)
        return point | {"train_seconds": 100 + factor * point["step"] / 100}

    results = fill(client, plan, lambda _: [0.9] * 19 + [0.45], own=own)
    (told,) = [text for text in given(results)["answer"] if "training time" in text]
    assert "there is no winner, because" in told
    assert "cannot be told apart" in told
    assert "seeds would" in told


def test_one_seed_names_no_winner(client: MlflowClient) -> None:
    plan = benchmark("single", {"baseline": [1], "sync_sgd": [2]}, [0])
    answer = given(fill(client, plan, unlike))["answer"]
    assert answer[0] == (
        "Least training time to the target, measured: one seed cannot show a winner. The first is"
        " synchronous SGD on 2 workers (2.7 s), the second is baseline on 1 worker (5.0 s)."
    )


def test_a_seed_that_failed_counts_against_its_configuration(client: MlflowClient) -> None:
    plan = benchmark("diverged", {"baseline": [1], "sync_sgd": [2]}, [0, 1, 2])
    failures: dict[int | str, str] = {"sync_sgd, 2 workers, seed 2": "the loss is not finite"}
    content = given(fill(client, plan, unlike, failures=failures))
    assert [row[2] for row in content["summary"]["rows"]] == ["3 of 3", "2 of 3"]
    assert content["answer"][0] == (
        "Least training time to the target, measured: baseline on 1 worker (5.3 s), the only"
        " configuration that can be compared."
    )
    assert (
        "5 of 6 trials reached the target, and 1 of 2 configurations reached it with every seed"
        " (3 seeds each)." in content["answer"]
    )
    (table,) = [t for t in content["tables"] if t["title"] == "Relative to the reference"]
    assert {cell["text"] for cell in table["rows"][0][1:]} == {"reached by 2 of 3"}


def test_measured_and_modelled_times_are_answers_apart(whole: Results) -> None:
    measured, modelled, sent, _ = given(whole)["answer"]
    assert measured.startswith("Least training time to the target, measured with a core for every")
    assert "4 workers" not in measured
    assert modelled.startswith("Least training time to the target, modelled, ethernet-10g: ")
    assert sent.startswith("Fewest bytes that a worker sends to the target: ")
    (table,) = [t for t in given(whole)["tables"] if t["title"] == "Relative to the reference"]
    seconds = {row[0]["text"]: row[3]["text"] for row in table["rows"]}
    assert seconds["synchronous SGD on 4 workers"] == "more ranks than cores"


def test_of_many_that_tie_the_first_are_named(every: Results) -> None:
    same = {"modelled_time_to_target_s": 30.0, "modelled_time_before_target_s": 20.0}
    tied = replace(every, trials=every.trials.assign(**same))
    assert (
        "there is no winner, because baseline on 1 worker (30.0 s), synchronous SGD on 2 workers (30.0"
        " s) and 12 others cannot be told apart" in given(tied)["answer"][1]
    )


def test_without_a_target_the_lowest_loss_is_the_answer(aimless: Results) -> None:
    content = given(aimless)
    assert content["question"].endswith(
        "reaches the lowest validation log loss (nats) within the budget?"
    )
    assert content["answer"] == [
        "The workload has no target.",
        "Lowest validation log loss (nats): synchronous SGD on 2 workers (-1.0000). Its difference to"
        " the next, baseline on 1 worker (-0.5000), is -0.5000 [-0.5000, -0.5000].",
    ]
    assert dict(content["facts"])["Target"] == "none"
    assert not [name for name in content["summary"]["header"] if "target" in name]
    assert all(t["title"] != "Relative to the reference" for t in content["tables"])


def test_the_loss_of_the_test_part_is_ranked_where_there_is_one(aimless: Results) -> None:
    other_way_round = -aimless.trials["best_loss"]
    content = given(replace(aimless, trials=aimless.trials.assign(test_loss=other_way_round)))
    assert content["question"].endswith("the lowest test log loss (nats) within the budget?")
    assert content["answer"][1].startswith(
        "Lowest test log loss (nats): baseline on 1 worker (0.5000)."
    )
    place = content["summary"]["header"].index("test log loss (nats)")
    assert content["summary"]["rows"][0][place] == "0.5000"


def test_the_table_of_many_configurations_ends_on_the_first_page(every: Results) -> None:
    inputs = pdf.inputs(pdf.content(every, {}, dict.fromkeys(catalogue.FIGURES, "left out")))
    found = typst.query(
        pdf.TEMPLATE, "<summary-end>", field="value", sys_inputs=inputs, ignore_system_fonts=True
    )
    assert json.loads(found) == [1]


def test_a_seed_that_failed_counts_where_losses_are_ranked_too(client: MlflowClient) -> None:
    plan = benchmark("lost", {"baseline": [1], "sync_sgd": [2]}, [0, 1])
    failures: dict[int | str, str] = {"sync_sgd, 2 workers, seed 1": "the loss is not finite"}
    results = fill(
        client,
        plan,
        lambda trial: [0.56, 0.55 - 0.02 * (trial.label == "sync_sgd")],
        failures=failures,
    )
    assert (
        "Lowest validation log loss (nats): baseline on 1 worker (0.5500), the only configuration that"
        " can be compared." in given(results)["answer"]
    )


def test_unfinished_trials_are_counted_and_the_lowest_loss_told(partial: Results) -> None:
    assert given(partial)["answer"] == [
        "No trial reached the target of 0.5 within the budget.",
        "Lowest validation log loss (nats): synchronous SGD on 2 workers (0.6000), the only"
        " configuration that can be compared.",
        "0 of 2 trials reached the target, and 0 of 2 configurations reached it with every seed"
        " (1 seed each).",
        "2 of 3 planned trials did not finish; the table of all trials says why.",
    ]
