"""Text as a data module: sequences, facts, real corpora, and whole runs."""

import gzip
import math
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paceline.benchmarks.spec.benchmark import Trial
from paceline.benchmarks.spec.plugin import Plugin
from paceline.benchmarks.spec.reading import load_benchmark
from paceline.benchmarks.spec.settings import Budget, Target
from paceline.benchmarks.spec.workload import Workload
from paceline.benchmarks.trials.dealing import partition, validation_batches
from paceline.datasets.partition import Partition
from paceline.datasets.reading.cache import DataError
from paceline.datasets.text import Text
from paceline.lightning_modules import find_algorithms
from paceline.lightning_modules.backend.layout import Layout
from paceline.lightning_modules.models.language_model import LanguageModel
from paceline.reports.measures.results import load
from tests.checkout import Checkout
from tests.corpora import TRAIN, VALID, prepared
from tests.ranks import Plan, run_ranks, train


def test_a_sequence_and_its_targets_are_one_token_apart(text_folder: Path) -> None:
    data = prepared(text_folder, sequence_length=3)
    batch = data.train_dataset.__getitems__([1, 0])
    assert (batch.tokens.dtype, batch.targets.dtype) == (torch.int32, torch.int64)
    assert batch.tokens.shape == batch.targets.shape == (2, 3)
    text = ["a", "b", "<eos>", "a", "c", "d", "<eos>"]
    names = [[data.vocabulary[i] for i in row] for row in (*batch.tokens, *batch.targets)]
    assert names == [text[3:6], text[0:3], text[4:7], text[1:4]]
    assert len(data.train_dataset) == 2
    again = pickle.loads(pickle.dumps(data.train_dataset))
    assert torch.equal(again[1].tokens, data.train_dataset[1].tokens)


def test_facts_of_a_text_by_hand(text_folder: Path) -> None:
    data = prepared(text_folder)
    facts = data.description
    assert not facts["synthetic"]
    assert "bayes_log_loss" not in facts
    assert (facts["train_tokens"], facts["validation_tokens"]) == (7, 7)
    assert (facts["train_rows"], facts["validation_rows"]) == (3, 3)
    # Training: <eos> and a twice, b, c and d once, <unk> half a time. Validation: 3 a, 2 <eos>, b, <unk>.
    counted = 5 * math.log(7.5 / 2) + math.log(7.5 / 1) + math.log(7.5 / 0.5)
    assert facts["constant_log_loss"] == pytest.approx(counted / 7)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("sequence_length", 0, "at least 1"),
        ("max_vocabulary", 1, "at least 2"),
        ("validation_fraction", 1.0, "within (0, 1)"),
        ("train_tokens", 0, "at least 1"),
        ("validation_tokens", 0, "at least 1"),
        ("synthetic_seed", -1, "at least 0"),
    ],
)
def test_arguments_out_of_range_are_refused(name: str, value: float, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        Text(**{name: value})  # type: ignore[arg-type]
    assert str(caught.value) == f"{name} is {value}; it must be {expected}"


def test_the_default_needs_no_file_and_states_its_bounds(tmp_path: Path) -> None:
    data = prepared(
        None, cache_dir=str(tmp_path), train_tokens=5000, validation_tokens=1000, sequence_length=20
    )
    facts = data.description
    assert facts["synthetic"]
    assert (facts["vocabulary_size"], facts["train_rows"], facts["validation_rows"]) == (
        26,
        249,
        49,
    )
    assert facts["entropy_rate"] < facts["bayes_log_loss"] < facts["constant_log_loss"]  # type: ignore[operator]
    assert facts["constant_log_loss"] < math.log(26)  # type: ignore[operator]
    with pytest.raises(RuntimeError, match="call prepare_data or setup first"):
        _ = Text(cache_dir=str(tmp_path)).fingerprint


def test_evaluation_batches_are_as_small_as_the_vocabulary_asks(text_folder: Path) -> None:
    data = prepared(text_folder)
    assert data.evaluation_batch == (1 << 23) // (2 * 6)
    algorithm = find_algorithms()["sync_sgd"](LanguageModel(6, 2))
    batches = validation_batches(100, algorithm, Layout(1, 2), 1, 30)
    assert [len(batch) for batch in batches] == [25, 25]
    assert np.array_equal(np.concatenate(batches), np.arange(50, 100))


def tiny(folder: Path, algorithm: str, **hyper_parameters: Any) -> Trial:
    """A trial of 20 steps on two workers over the synthetic text."""
    data = {
        "cache_dir": str(folder),
        "train_tokens": 20_000,
        "validation_tokens": 500,
        "sequence_length": 10,
    }
    return Trial(
        benchmark="test",
        workload=Workload(
            name="text",
            data=Plugin("paceline.datasets.text:Text", data),
            task=Plugin("paceline.lightning_modules.models.language_model:LanguageModel", {}),
            target=Target(3.0),
            budget=Budget(examples=640, evaluations=2),
        ),
        label=algorithm,
        algorithm=algorithm,
        hyper_parameters=hyper_parameters,
        workers=2,
        batch_size=16,
        zero_stage=0,
        threads=1,
        accelerator="cpu",
        seed=0,
    )


@pytest.mark.parametrize(
    ("algorithm", "hyper_parameters"),
    [
        ("codistillation", {"burn_in": 2, "period": 2}),
        ("label_smoothing", {"towards": "marginal"}),
    ],
)
def test_soft_targets_and_ensembles_work_on_tokens(
    tmp_path: Path, algorithm: str, hyper_parameters: dict[str, Any]
) -> None:
    ranks = run_ranks(2, train, tiny(tmp_path, algorithm, **hyper_parameters), Plan())
    first, last = ranks[0]["points"]
    assert last["validation_loss"] < first["validation_loss"] < math.log(26) + 0.1
    if algorithm == "codistillation":
        assert last["ensemble_loss"] < last["validation_loss"]
        assert last["ensemble_metric"] == pytest.approx(math.exp(last["ensemble_loss"]), rel=1e-4)
    else:
        expected = math.exp(last["validation_loss"])
        assert last["validation_metric"] == pytest.approx(expected, rel=1e-4)


def test_a_partition_by_labels_is_refused_for_text(text_folder: Path) -> None:
    data = prepared(text_folder)
    algorithm = find_algorithms()["sync_sgd"](LanguageModel(6, 2))
    trial = tiny(text_folder, "model_averaging")
    for kind in ("labels", "dirichlet"):
        by_labels = replace(trial, partition=Partition(kind))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"needs one label an example, not shape \(6,\)"):
            partition(by_labels, algorithm, data.train_dataloader(), data.evaluation_batch)


def test_the_shipped_benchmark_has_every_algorithm() -> None:
    trials = load_benchmark("penn-treebank", []).trials()
    names = {trial.label for trial in trials}
    assert names >= {"sync_sgd", "downpour", "admm", "model_averaging", "codistillation"}
    assert {t.workers for t in trials if t.label == "baseline"} == {1}
    assert {t.workers for t in trials} == {1, 2, 4}


@pytest.mark.timeout(300)
def test_the_shipped_benchmark_runs_from_text_to_report(text_folder: Path, tmp_path: Path) -> None:
    """Every algorithm, over a folder of words, through the command line."""
    (text_folder / "train.txt").write_text(TRAIN * 100)
    (text_folder / "tiny.valid.txt.gz").write_bytes(gzip.compress(VALID.encode() * 20))
    checkout = Checkout(tmp_path)
    done = checkout.call(
        *("run", "penn-treebank", "--data", str(text_folder), "--name=tiny"),
        *(f"--report={checkout.pdf}", f"--workload.data.cache_dir={checkout.cache}"),
        *("--scale.workers=[1]", "--workload.data.sequence_length=10"),
        *("--algorithms.sync_sgd.workers=[1]", "--algorithms.codistillation.workers=[2]"),
        *("--workload.budget.examples=64", "--workload.budget.evaluations=2"),
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "[6/6]" in done.stdout
    assert "perplexity" in done.stdout
    assert checkout.pdf.read_bytes().startswith(b"%PDF")
    results = load(checkout.client, "tiny")
    assert results.benchmark["data"]["name"] == "train.txt, tiny.valid.txt.gz (words)"
    trials = results.trials[results.trials["replicas"] == 1]  # else it is a mean of perplexities
    expected = trials["final_loss"].map(math.exp).tolist()
    assert trials["final_metric"].tolist() == pytest.approx(expected, rel=1e-4)


@pytest.fixture(scope="module")
def real() -> Path:
    if "PACELINE_DATA" not in os.environ:
        pytest.skip("PACELINE_DATA is not set: no real text")
    return Path(os.environ["PACELINE_DATA"])


def test_penn_treebank_has_its_published_counts(real: Path, tmp_path: Path) -> None:
    data = prepared(real / "ptb", cache_dir=str(tmp_path), sequence_length=35)
    facts = data.description
    assert facts["train_tokens"] == 929_589
    assert facts["validation_tokens"] == 73_760
    assert facts["vocabulary_size"] == 10_000
    assert data.evaluation_batch * 35 * 10_000 * 4 < 40e6
    first = data.train_dataset[0]
    assert [data.vocabulary[i] for i in first.tokens[0, :3]] == ["aer", "banknote", "berlitz"]


def test_shakespeare_has_its_characters(real: Path, tmp_path: Path) -> None:
    data = prepared(real / "shakespeare" / "input.txt", cache_dir=str(tmp_path), sequence_length=35)
    facts = data.description
    assert facts["train_tokens"] + facts["validation_tokens"] == 1_115_394  # type: ignore[operator]
    assert facts["vocabulary_size"] == 65
    tokens = data.train_dataset[0].tokens[0]
    assert "".join(data.vocabulary[i] for i in tokens).startswith("First Citizen:\nBefore")
