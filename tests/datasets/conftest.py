"""Files of data that the tests of several modules read."""

from pathlib import Path

import pytest

from tests import criteo


@pytest.fixture
def criteo_file(tmp_path: Path) -> Path:
    """2000 rows in Criteo's format."""
    target = tmp_path / "rows.tsv"
    target.write_bytes(criteo.text())
    return target
