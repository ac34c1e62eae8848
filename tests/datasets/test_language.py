"""Language modelling: readers, vocabulary, the synthetic text, the models, and the whole benchmark."""

import gzip
import math
import os
import pickle
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from torch.nn.functional import cross_entropy

from paceline.benchmarks.spec.benchmark import Trial, Workload
from paceline.benchmarks.spec.plugin import Plugin
from paceline.benchmarks.spec.reading import load_benchmark
from paceline.benchmarks.spec.settings import Budget, Target
from paceline.benchmarks.trials.dealing import partition, validation_batches
from paceline.datasets.markov_text import BLOCK, SYMBOLS, MarkovText
from paceline.datasets.partition import Partition
from paceline.datasets.reading import corpus
from paceline.datasets.reading.cache import DataError
from paceline.datasets.text import Text, TokenBatch
from paceline.lightning_modules import find_algorithms
from paceline.lightning_modules.backend.layout import Layout
from paceline.lightning_modules.models.language_model import LanguageModel, Perplexity
from paceline.reports.measures.results import load
from tests import ROOT
from tests.workload import Plan, run_ranks, train

TRAIN, VALID = "a b\na c d\n", "b a\nz a a\n"


def prepared(path: Path | None, **arguments: Any) -> Text:
    """A module over `path`, with its cache beside it."""
    arguments.setdefault("sequence_length", 2)
    if path is not None:
        arguments = {"path": str(path), "cache_dir": str(path.parent / "cache"), **arguments}
    data = Text(**arguments)
    data.setup()
    return data


def decoded(data: Text) -> tuple[list[str], list[str]]:
    """The tokens of both splits that some sequence predicts."""
    datasets = (data.train_dataset, data.validation_dataset)
    batches = [dataset.__getitems__(range(len(dataset))) for dataset in datasets]
    train, validation = (
        [data.vocabulary[token] for token in batch.targets.flatten().tolist()] for batch in batches
    )
    return train, validation


def message_of(path: Path, **arguments: Any) -> str:
    with pytest.raises(DataError) as caught:
        prepared(path, **arguments)
    assert not list((path.parent / "cache").glob("*.partial"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file a split."""
    made = tmp_path / "tiny"
    made.mkdir()
    (made / "train.txt").write_text(TRAIN)
    (made / "tiny.valid.txt.gz").write_bytes(gzip.compress(VALID.encode()))
    (made / "test.txt").write_text("never read\n")
    return made


# Reading


def test_a_folder_with_a_file_a_split_is_read_as_words(folder: Path) -> None:
    data = prepared(folder, sequence_length=1)
    # The most frequent first; what the training file lacks is <unk>, each line ends in <eos>.
    assert data.vocabulary == ["<unk>", "<eos>", "a", "b", "c", "d"]
    assert decoded(data) == (
        ["b", "<eos>", "a", "c", "d", "<eos>"],
        ["a", "<eos>", "<unk>", "a", "a", "<eos>"],
    )
    assert data.description["name"] == "train.txt, tiny.valid.txt.gz (words)"


def test_unk_of_the_text_itself_is_the_unknown_word(folder: Path) -> None:
    (folder / "train.txt").write_text("a a a <unk>\n")
    assert prepared(folder).vocabulary == ["<unk>", "a", "<eos>"]


def test_no_unk_where_every_token_is_known(folder: Path) -> None:
    (folder / "tiny.valid.txt.gz").write_bytes(gzip.compress(b"a b c\n"))
    assert "<unk>" not in prepared(folder).vocabulary


def test_max_vocabulary_keeps_the_most_frequent(folder: Path) -> None:
    data = prepared(folder, max_vocabulary=3, sequence_length=1)
    assert data.vocabulary == ["<unk>", "<eos>", "a"]
    assert decoded(data)[0] == ["<unk>", "<eos>", "a", "<unk>", "<unk>", "<eos>"]


def test_a_file_is_read_as_characters_and_its_end_validates(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes("aébbb\r\naé\n漢a".encode())
    data = prepared(file, sequence_length=1, validation_fraction=0.2)
    assert data.vocabulary == ["<unk>", "b", "\n", "a", "é"]
    assert decoded(data) == (["é", "b", "b", "b", "\n", "a", "é", "\n"], ["a"])
    assert data.description["train_tokens"] == 9
    assert data.description["validation_tokens"] == 2


def test_level_chooses_words_of_a_file_and_characters_of_a_folder(
    folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "text.txt"
    file.write_text("one two three\n" * 10)
    assert set(prepared(file, level="word").vocabulary) == {"one", "two", "three", "<eos>"}
    assert "\n" in prepared(folder, level="character").vocabulary


@pytest.mark.parametrize("block_bytes", [1, 7, 1 << 20])
def test_shards_are_one_text_in_natural_order_whatever_the_block(
    tmp_path: Path, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(corpus, "CHUNK", block_bytes)
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(12):
        text = f"document {number}\n\nlast{number}".encode()  # the last line has no end
        name = shards / f"part-{number}.txt"
        if number % 2:
            name.with_suffix(".txt.gz").write_bytes(gzip.compress(text))
        else:
            name.write_bytes(text)
    data = prepared(shards, sequence_length=1, validation_fraction=0.5)
    train, validation = decoded(data)
    expected = [w for n in range(12) for w in f"document {n} <eos> <eos> last{n} <eos>".split()]
    assert train == expected[1:36]
    known = set(expected[:36])
    assert validation == [w if w in known else "<unk>" for w in expected[37:]]


def test_a_corpus_may_be_larger_than_the_memory_that_reading_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(corpus, "CHUNK", 1 << 12)
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(4):
        (shards / f"{number}.txt").write_text("some words of a document\n" * 20_000)
    tracemalloc.start()
    data = prepared(shards)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    tokens = data.description["train_tokens"] + data.description["validation_tokens"]  # type: ignore[operator]
    assert tokens == 4 * 20_000 * 6
    assert peak < tokens * 4 / 2


def test_a_sequence_and_its_targets_are_one_token_apart(folder: Path) -> None:
    data = prepared(folder, sequence_length=3)
    batch = data.train_dataset.__getitems__([1, 0])
    assert (batch.tokens.dtype, batch.targets.dtype) == (torch.int32, torch.int64)
    assert batch.tokens.shape == batch.targets.shape == (2, 3)
    text = ["a", "b", "<eos>", "a", "c", "d", "<eos>"]
    names = [[data.vocabulary[i] for i in row] for row in (*batch.tokens, *batch.targets)]
    assert names == [text[3:6], text[0:3], text[4:7], text[1:4]]
    assert len(data.train_dataset) == 2
    again = pickle.loads(pickle.dumps(data.train_dataset))
    assert torch.equal(again[1].tokens, data.train_dataset[1].tokens)


def test_facts_of_a_text_by_hand(folder: Path) -> None:
    data = prepared(folder)
    facts = data.description
    assert not facts["synthetic"]
    assert "bayes_log_loss" not in facts
    assert (facts["train_tokens"], facts["validation_tokens"]) == (7, 7)
    assert (facts["train_rows"], facts["validation_rows"]) == (3, 3)
    # Training: <eos> and a twice, b, c and d once, <unk> half a time. Validation: 3 a, 2 <eos>, b, <unk>.
    counted = 5 * math.log(7.5 / 2) + math.log(7.5 / 1) + math.log(7.5 / 0.5)
    assert facts["constant_log_loss"] == pytest.approx(counted / 7)


# Cache


def test_a_text_is_encoded_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepared(folder)
    monkeypatch.setattr(corpus, "_texts", lambda _: pytest.fail("read again"))
    again = prepared(folder)
    assert decoded(again) == decoded(first)
    assert again.fingerprint == first.fingerprint
    assert prepared(folder, sequence_length=3).fingerprint != first.fingerprint


def test_another_text_is_another_entry_and_the_same_text_has_one_fingerprint(
    folder: Path,
) -> None:
    first = prepared(folder)
    (folder / "train.txt").write_text(TRAIN.replace("d", "e"))
    assert prepared(folder).fingerprint != first.fingerprint
    (folder / "train.txt").unlink()
    (folder / "train.txt.gz").write_bytes(gzip.compress(TRAIN.encode()))
    assert prepared(folder).fingerprint == first.fingerprint


# Errors


def test_bytes_that_are_not_utf_8_are_located(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "BLOCK_BYTES", 4)
    file = folder / "train.txt"
    file.write_bytes(b"one two\nthree\ncaf\xe9\n")
    expected = f"{file}, line 3, byte 17: 0xe9 is not UTF-8; convert the file, with iconv say"
    assert message_of(folder) == expected


def test_a_truncated_gzip_is_named(folder: Path) -> None:
    file = folder / "tiny.valid.txt.gz"
    file.write_bytes(file.read_bytes()[:-9])
    assert message_of(folder) == (
        f"{file} is not a whole gzip file: Compressed file ended before the end-of-stream marker"
        " was reached; fetch it again"
    )


def test_an_empty_file_is_named(folder: Path) -> None:
    (folder / "train.txt").write_text("")
    assert message_of(folder) == (
        f"{folder / 'train.txt'} is empty; put text into it, or remove it"
    )


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_folder_without_a_split_says_so(folder: Path, split: str) -> None:
    (gone,) = folder.glob(f"*{split}*")
    gone.unlink()
    beside = ", ".join(sorted(file.name for file in folder.iterdir()))
    assert message_of(folder) == (
        f"{folder} has {beside}, but no file {split}.txt or *.{split}.txt (or .gz of these);"
        " add it, or name another folder with --data"
    )


def test_two_files_of_one_split_are_refused(folder: Path) -> None:
    (folder / "old.train.txt").write_text(TRAIN)
    assert message_of(folder) == (
        f"{folder} has two files of split train, old.train.txt and train.txt; leave one of them"
    )


def test_a_file_that_is_there_twice_is_refused(folder: Path) -> None:
    (folder / "train.txt.gz").write_bytes(gzip.compress(TRAIN.encode()))
    assert message_of(folder) == (
        f"{folder / 'train.txt'} is there twice, plain and as .gz; remove one of them"
    )


def test_a_folder_without_text_and_a_place_that_is_not_there(tmp_path: Path) -> None:
    advice = (
        "name a text file, or a folder of *.txt, *.tokens or *.raw (or .gz of these), with --data"
    )
    empty, nowhere = tmp_path / "empty", tmp_path / "nowhere"
    empty.mkdir()
    assert message_of(empty) == f"{empty} has no text files; {advice}"
    assert message_of(nowhere) == f"cannot read {nowhere}: No such file or directory; {advice}"


def test_too_little_text_is_refused(folder: Path) -> None:
    assert message_of(folder, sequence_length=7) == (
        "train.txt, tiny.valid.txt.gz (words): 7 train tokens are too few for one sequence of 7 and"
        " the token after it; give more text, or a smaller --workload.data.sequence_length"
    )


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


# The synthetic text


@pytest.fixture(scope="module")
def source() -> MarkovText:
    return MarkovText(seed=0)


def test_the_entropy_rate_is_that_of_the_text(source: MarkovText) -> None:
    text = np.concatenate(list(source.blocks("train", 400_000)))
    before, last, following = text[:-2], text[1:-1], text[2:]
    surprise = -np.log(source.table[before, last, following])
    assert surprise.mean() == pytest.approx(source.entropy_rate, abs=0.01)
    # Of what is seen of the text alone, too: pairs and triples, counted.
    triples = np.bincount((before * 26 + last) * 26 + following, minlength=26**3) / len(before)
    pairs = triples.reshape(-1, 26).sum(axis=1)
    entropies = [-(p[p > 0] * np.log(p[p > 0])).sum() for p in (triples, pairs)]
    assert entropies[0] - entropies[1] == pytest.approx(source.entropy_rate, abs=0.02)
    assert np.abs(pairs - source.pairs.flatten()).sum() < 0.05


def test_the_lowest_loss_counts_the_first_symbol_of_a_sequence(source: MarkovText) -> None:
    assert source.lowest_loss(1) > source.lowest_loss(10) > source.entropy_rate
    excess = source.lowest_loss(10) - source.entropy_rate
    assert excess == pytest.approx((source.lowest_loss(1) - source.entropy_rate) / 10)
    # Given one symbol alone, the next comes with the frequency of the pair.
    text = np.concatenate(list(source.blocks("validation", 200_000)))
    conditional = source.pairs / source.pairs.sum(axis=1, keepdims=True)
    surprise = -np.log(conditional[text[:-1], text[1:]]).mean()
    assert surprise == pytest.approx(source.lowest_loss(1), abs=0.01)


def test_the_synthetic_text_is_the_same_again_and_for_any_length(source: MarkovText) -> None:
    long, short = (
        np.concatenate(list(MarkovText(0).blocks("train", count))) for count in (BLOCK + 99, 500)
    )
    assert np.array_equal(long[:500], short)
    assert len(long) == BLOCK + 99
    assert "".join(SYMBOLS[i] for i in short[:40]) == ("nxwgbsaslboexwgflcgfosexhsbprslxzsafocoi")
    assert not np.array_equal(next(source.blocks("validation", 500)), short)
    assert not np.array_equal(next(MarkovText(1).blocks("train", 500)), short)


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


# Models


def batch_of(rows: int, length: int, vocabulary: int) -> TokenBatch:
    generator = torch.Generator().manual_seed(0)
    window = torch.randint(vocabulary, (rows, length + 1), generator=generator)
    return TokenBatch(window[:, :-1].int(), window[:, 1:])


@pytest.mark.parametrize(
    ("architecture", "preset"), [("lstm", "small"), ("lstm", "paper"), ("gpt", "small")]
)
def test_a_prediction_depends_on_nothing_that_comes_later(architecture: Any, preset: Any) -> None:
    torch.manual_seed(0)
    model = LanguageModel(11, 6, architecture, preset).eval()
    batch = batch_of(3, 6, 11)
    logits = model(batch).view(3, 6, 11)
    assert torch.equal(model.labels(batch).view(3, 6), batch.targets)
    changed = batch.tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 11
    moved = (model(TokenBatch(changed, batch.targets)).view(3, 6, 11) - logits).abs().amax((0, 2))
    assert moved[:4].max() < 1e-5
    assert moved[4:].min() > 1e-4


def test_layer_norm_lstm_follows_its_equations() -> None:
    from paceline.lightning_modules.models.language_model import LayerNormLSTM

    torch.manual_seed(0)
    layer = LayerNormLSTM(3, 5)
    x, h, c = torch.randn(1, 2, 3), torch.zeros(5), torch.zeros(5)

    def norm(vector: torch.Tensor) -> torch.Tensor:
        deviation = (vector.var(unbiased=False) + 1e-5).sqrt()
        return (vector - vector.mean()) / deviation

    for step in range(2):
        gates = norm(layer.from_hidden.weight @ h) + norm(layer.from_input.weight @ x[0, step])
        f, i, o, g = gates.split(5)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * norm(c).tanh()
        torch.testing.assert_close(layer(x)[0, step], h)


def parameters_of(**arguments: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in LanguageModel(**arguments).parameters())


def test_the_models_of_the_papers_have_their_sizes() -> None:
    layers = 4 * 1024 * (256 + 1024) + 4 * 1024 * (1024 + 1024) + 2 * (3 * 4 * 1024 + 2 * 1024)
    lstm = parameters_of(vocabulary_size=100, sequence_length=10, preset="paper")
    assert lstm == layers + 100 * 256 + 1024 * 100 + 100
    gpt = parameters_of(
        vocabulary_size=40_478, sequence_length=512, architecture="gpt", preset="paper"
    )
    assert round(gpt / 1e6) == 117


def test_losses_take_soft_labels_and_inverse_undoes_probabilities() -> None:
    model = LanguageModel(7, 4)
    batch = batch_of(2, 4, 7)
    logits = model(batch)
    probabilities = model.probabilities(logits)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(8))
    hard = torch.nn.functional.one_hot(model.labels(batch), 7).float()
    torch.testing.assert_close(
        model.loss(logits, hard), cross_entropy(logits, batch.targets.flatten())
    )
    again = model.inverse(probabilities)
    torch.testing.assert_close(model.probabilities(again), probabilities)
    certain = model.inverse(torch.eye(7))
    assert certain.isfinite().all()


def test_perplexity_is_the_exponential_of_the_mean_surprise() -> None:
    metric = Perplexity()
    metric.update(torch.tensor([[0.5, 0.5], [0.25, 0.75]]), torch.tensor([0, 0]).int())
    metric.update(torch.tensor([[0.125, 0.875]]), torch.tensor([0]).int())
    assert metric.compute() == pytest.approx((2 * 4 * 8) ** (1 / 3))
    uniform = LanguageModel(10, 4).metric()
    uniform.update(torch.full((20, 10), 0.1), torch.arange(20).int() % 10)
    assert uniform.compute() == pytest.approx(10)


# The benchmark


def test_evaluation_batches_are_as_small_as_the_vocabulary_asks(folder: Path) -> None:
    data = prepared(folder)
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


def test_a_partition_by_labels_is_refused_for_text(folder: Path) -> None:
    data = prepared(folder)
    algorithm = find_algorithms()["sync_sgd"](LanguageModel(6, 2))
    trial = tiny(folder, "model_averaging")
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
def test_the_shipped_benchmark_runs_from_text_to_report(folder: Path, tmp_path: Path) -> None:
    """Every algorithm, over a folder of words, through the command line."""
    (folder / "train.txt").write_text(TRAIN * 100)
    (folder / "tiny.valid.txt.gz").write_bytes(gzip.compress(VALID.encode() * 20))
    command = [sys.executable, "-m", "benchmarks", "run", "penn-treebank", "--data", str(folder)]
    command += ["--name=tiny", f"--report={tmp_path / 'tiny.pdf'}", "--scale.workers=[1]"]
    command += ["--algorithms.sync_sgd.workers=[1]", "--algorithms.codistillation.workers=[2]"]
    command += ["--workload.budget.examples=64", "--workload.budget.evaluations=2"]
    command += ["--workload.data.sequence_length=10", f"--workload.data.cache_dir={tmp_path / 'c'}"]
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"MLFLOW_TRACKING_URI": store},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "[6/6]" in done.stdout
    assert "perplexity" in done.stdout
    assert (tmp_path / "tiny.pdf").read_bytes().startswith(b"%PDF")
    results = load(MlflowClient(store), "tiny")
    assert results.benchmark["data"]["name"] == "train.txt, tiny.valid.txt.gz (words)"
    trials = results.trials[results.trials["replicas"] == 1]  # else it is a mean of perplexities
    expected = trials["final_loss"].map(math.exp).tolist()
    assert trials["final_metric"].tolist() == pytest.approx(expected, rel=1e-4)


# Real data


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
