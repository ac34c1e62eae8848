"""Files of data that the tests of several modules read."""

import gzip
from pathlib import Path

import pytest

from tests import corpora, criteo


@pytest.fixture
def criteo_file(tmp_path: Path) -> Path:
    """2000 rows in Criteo's format."""
    target = tmp_path / "rows.tsv"
    target.write_bytes(criteo.text())
    return target


@pytest.fixture
def text_folder(tmp_path: Path) -> Path:
    """A folder with a file of text a split."""
    made = tmp_path / "tiny"
    made.mkdir()
    (made / "train.txt").write_text(corpora.TRAIN)
    (made / "tiny.valid.txt.gz").write_bytes(gzip.compress(corpora.VALID.encode()))
    (made / "test.txt").write_text("never read\n")
    return made
