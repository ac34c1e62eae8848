"""Files whose names tell the part of the data that they hold."""

from pathlib import Path

import pytest

from paceline.datasets.reading.cache import DataError
from paceline.datasets.reading.parts import Parts, by_part
from paceline.datasets.text import Text


def sorted_out(folder: Path, names: list[str]) -> Parts:
    return by_part([folder / name for name in names])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train.txt", "valid.txt", "test.txt"], (1, 1, 1, 0)),
        (["training.txt", "validation.txt"], (1, 1, 0, 0)),
        (["Train.txt", "VALID.TXT.gz"], (1, 1, 0, 0)),
        (["train.txt", "dev.txt", "readme.txt"], (1, 1, 0, 1)),
        (["wiki.train.tokens", "wiki.val.tokens", "wiki-test.tokens"], (1, 1, 1, 0)),
        (["train-00000-of-00002.csv", "train-00001-of-00002.csv", "dev.csv"], (2, 1, 0, 0)),
        (["train_1.csv.gz", "train_2.csv.gz", "train_10.csv.gz", "testing.csv"], (3, 0, 1, 0)),
        (["part-0.txt", "trainer.txt", "contest.txt", "developer.txt", "train_head.txt"], (0,) * 3),
        (["day_0", "day_1"], (0, 0, 0, 2)),
    ],
)
def test_names_tell_the_parts(tmp_path: Path, names: list[str], expected: tuple[int, ...]) -> None:
    found = tuple(len(part) for part in sorted_out(tmp_path, names))
    assert found[: len(expected)] == expected
    assert sum(found) == len(names)


def test_shards_come_in_natural_order(tmp_path: Path) -> None:
    names = ["train_10.csv", "train_2.csv", "train_1.csv"]
    train = sorted_out(tmp_path, names).train
    assert [file.name for file in train] == ["train_1.csv", "train_2.csv", "train_10.csv"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (
            ["train.txt", "training.txt"],
            "{} has two files of split train, train.txt and training.txt; leave one of them",
        ),
        (
            ["train.txt", "dev.txt", "valid.txt"],
            "{} has two files of split valid, dev.txt and valid.txt; leave one of them",
        ),
        (
            ["train.txt", "train-00000-of-00001.txt"],
            "{} has two files of split train, train-00000-of-00001.txt and train.txt; leave one of"
            " them",
        ),
        (
            ["train-00000-of-00002.txt", "train-00000-of-00003.txt"],
            "{} has two files of split train, train-00000-of-00002.txt and"
            " train-00000-of-00003.txt; leave one of them",
        ),
        (
            ["train-00000-of-00003.txt", "train-00002-of-00003.txt"],
            "{} has 2 of 3 shards of split train, train-00000-of-00003.txt the first; put all of"
            " them there",
        ),
    ],
)
def test_what_cannot_be_one_part_is_refused(tmp_path: Path, names: list[str], told: str) -> None:
    with pytest.raises(DataError) as raised:
        sorted_out(tmp_path, names)
    assert str(raised.value) == told.format(tmp_path)


def text_of(folder: Path, files: dict[str, bytes]) -> Text:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    data = Text(str(folder), sequence_length=1, cache_dir=str(folder / "cache"))
    data.setup()
    return data


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00002.txt", "train-00001-of-00002.txt", "valid-00000-of-00001.txt"),
        ("train-00000-of-00002.txt", "train-00001-of-00002.txt", "validation-00000-of-00001.txt"),
        ("train_1.txt", "train_2.txt", "dev.txt"),
    ],
)
def test_texts_named_as_on_the_hub_are_used_as_their_names_say(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    first, second, validation = names
    files = {first: b"a b\n", second: b"c d\n", validation: b"d c b\n", "test.txt": b"z z z\n"}
    data = text_of(tmp_path, files)
    assert data.vocabulary == ["<eos>", "a", "b", "c", "d"]
    trained = data.train_dataset.__getitems__(range(5)).targets.flatten().tolist()
    assert [data.vocabulary[token] for token in trained] == ["b", "<eos>", "c", "d", "<eos>"]
    validated = data.validation_dataset.__getitems__(range(3)).targets.flatten().tolist()
    assert [data.vocabulary[token] for token in validated] == ["c", "b", "<eos>"]


def test_a_byte_order_mark_and_windows_line_ends_are_no_text(tmp_path: Path) -> None:
    files = {
        "train.txt": b"\xef\xbb\xbfthe cat\r\nthe dog\r\n",
        "valid.txt": b"\xef\xbb\xbfthe cat\r\nthe dog\r\n",
    }
    plain = {name: content[3:].replace(b"\r", b"") for name, content in files.items()}
    (tmp_path / "marked").mkdir()
    (tmp_path / "plain").mkdir()
    marked = text_of(tmp_path / "marked", files)
    assert marked.vocabulary == ["<eos>", "the", "cat", "dog"]
    assert marked.fingerprint == text_of(tmp_path / "plain", plain).fingerprint


def test_a_mark_within_a_text_stays_and_one_alone_is_an_empty_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffab\ufeffab\n".encode() * 3)
    data = Text(str(file), sequence_length=1, cache_dir=str(tmp_path / "cache"))
    data.setup()
    assert sorted(data.vocabulary) == ["\n", "a", "b", "\ufeff"]
    file.write_bytes(b"\xef\xbb\xbf")
    empty = Text(str(file), level="word", cache_dir=str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"a\.txt is empty; put text into it, or remove it$"):
        empty.setup()


def test_hidden_files_are_not_read(tmp_path: Path) -> None:
    data = text_of(
        tmp_path,
        {"train.txt": b"a b\n", "valid.txt": b"a b\n", "._train.txt": b"\x00\x05", "._a.txt": b"x"},
    )
    assert data.vocabulary == ["<eos>", "a", "b"]
