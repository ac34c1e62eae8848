"""Texts: read as words or characters, encoded once, and what a broken one is told."""

import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from paceline.datasets.reading import corpus, vocabulary
from paceline.datasets.reading.cache import DataError
from tests.corpora import TRAIN, decoded, prepared


def message_of(path: Path, **arguments: Any) -> str:
    with pytest.raises(DataError) as caught:
        prepared(path, **arguments)
    assert not list((path.parent / "cache").glob("*.partial"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_with_a_file_a_split_is_read_as_words(text_folder: Path) -> None:
    data = prepared(text_folder, sequence_length=1)
    # The most frequent first; what the training file lacks is <unk>, each line ends in <eos>.
    assert data.vocabulary == ["<unk>", "<eos>", "a", "b", "c", "d"]
    assert decoded(data) == (
        ["b", "<eos>", "a", "c", "d", "<eos>"],
        ["a", "<eos>", "<unk>", "a", "a", "<eos>"],
    )
    assert data.description["name"] == "train.txt, tiny.valid.txt.gz (words)"


def test_unk_of_the_text_itself_is_the_unknown_word(text_folder: Path) -> None:
    (text_folder / "train.txt").write_text("a a a <unk>\n")
    assert prepared(text_folder).vocabulary == ["<unk>", "a", "<eos>"]


def test_no_unk_where_every_token_is_known(text_folder: Path) -> None:
    (text_folder / "tiny.valid.txt.gz").write_bytes(gzip.compress(b"a b c\n"))
    assert "<unk>" not in prepared(text_folder).vocabulary


def test_max_vocabulary_keeps_the_most_frequent(text_folder: Path) -> None:
    data = prepared(text_folder, max_vocabulary=3, sequence_length=1)
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
    text_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "text.txt"
    file.write_text("one two three\n" * 10)
    assert set(prepared(file, level="word").vocabulary) == {"one", "two", "three", "<eos>"}
    assert "\n" in prepared(text_folder, level="character").vocabulary


@pytest.mark.parametrize("block_bytes", [1, 7, 1 << 20])
def test_shards_are_one_text_in_natural_order_whatever_the_block(
    tmp_path: Path, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(vocabulary, "CHUNK", block_bytes)
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
    monkeypatch.setattr(vocabulary, "CHUNK", 1 << 12)
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


def test_a_text_is_encoded_once(text_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepared(text_folder)
    monkeypatch.setattr(corpus, "_texts", lambda _: pytest.fail("read again"))
    again = prepared(text_folder)
    assert decoded(again) == decoded(first)
    assert again.fingerprint == first.fingerprint
    assert prepared(text_folder, sequence_length=3).fingerprint != first.fingerprint


def test_another_text_is_another_entry_and_the_same_text_has_one_fingerprint(
    text_folder: Path,
) -> None:
    first = prepared(text_folder)
    (text_folder / "train.txt").write_text(TRAIN.replace("d", "e"))
    assert prepared(text_folder).fingerprint != first.fingerprint
    (text_folder / "train.txt").unlink()
    (text_folder / "train.txt.gz").write_bytes(gzip.compress(TRAIN.encode()))
    assert prepared(text_folder).fingerprint == first.fingerprint


def test_bytes_that_are_not_utf_8_are_located(
    text_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "BLOCK_BYTES", 4)
    file = text_folder / "train.txt"
    file.write_bytes(b"one two\nthree\ncaf\xe9\n")
    expected = f"{file}, line 3, byte 17: 0xe9 is not UTF-8; convert the file, with iconv say"
    assert message_of(text_folder) == expected


def test_a_truncated_gzip_is_named(text_folder: Path) -> None:
    file = text_folder / "tiny.valid.txt.gz"
    file.write_bytes(file.read_bytes()[:-9])
    assert message_of(text_folder) == (
        f"{file} is not a whole gzip file: Compressed file ended before the end-of-stream marker"
        " was reached; fetch it again"
    )


def test_an_empty_file_is_named(text_folder: Path) -> None:
    (text_folder / "train.txt").write_text("")
    assert message_of(text_folder) == (
        f"{text_folder / 'train.txt'} is empty; put text into it, or remove it"
    )


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_folder_without_a_split_says_so(text_folder: Path, split: str) -> None:
    (gone,) = text_folder.glob(f"*{split}*")
    gone.unlink()
    beside = ", ".join(sorted(file.name for file in text_folder.iterdir()))
    assert message_of(text_folder) == (
        f"{text_folder} has {beside}, but no file {split}.txt or *.{split}.txt (or .gz of these);"
        " add it, or name another folder with --data"
    )


def test_two_files_of_one_split_are_refused(text_folder: Path) -> None:
    (text_folder / "old.train.txt").write_text(TRAIN)
    assert message_of(text_folder) == (
        f"{text_folder} has two files of split train, old.train.txt and train.txt; leave one of them"
    )


def test_a_file_that_is_there_twice_is_refused(text_folder: Path) -> None:
    (text_folder / "train.txt.gz").write_bytes(gzip.compress(TRAIN.encode()))
    assert message_of(text_folder) == (
        f"{text_folder / 'train.txt'} is there twice, plain and as .gz; remove one of them"
    )


def test_a_folder_without_text_and_a_place_that_is_not_there(tmp_path: Path) -> None:
    advice = (
        "name a text file, or a folder of *.txt, *.tokens or *.raw (or .gz of these), with --data"
    )
    empty, nowhere = tmp_path / "empty", tmp_path / "nowhere"
    empty.mkdir()
    assert message_of(empty) == f"{empty} has no text files; {advice}"
    assert message_of(nowhere) == f"cannot read {nowhere}: No such file or directory; {advice}"


def test_too_little_text_is_refused(text_folder: Path) -> None:
    assert message_of(text_folder, sequence_length=7) == (
        "train.txt, tiny.valid.txt.gz (words): 7 train tokens are too few for one sequence of 7 and"
        " the token after it; give more text, or a smaller --workload.data.sequence_length"
    )
