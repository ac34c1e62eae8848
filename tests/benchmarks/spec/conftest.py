"""A person's own model, in a file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.own_workload import TEXT


@pytest.fixture
def model_file(tmp_path: Path) -> Callable[..., str]:
    """Writes the example, with some of its text replaced, and gives the name of its task."""

    def write(old: str = "", new: str = "", task: str = "MyTask") -> str:
        assert old in TEXT
        path = tmp_path / "my_model.py"
        path.write_text(TEXT.replace(old, new))
        return f"{path}:{task}"

    return write
