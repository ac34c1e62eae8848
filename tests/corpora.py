"""Tiny texts, and what reading them gives."""

from pathlib import Path
from typing import Any

from paceline.datasets.text import Text

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
