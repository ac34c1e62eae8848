"""What a test does on a machine that lacks what it needs."""

import os
from typing import NoReturn

import pytest


def lacking(what: str) -> NoReturn:
    """Skips the test and says what is lacking. CI skips nothing: there the test fails."""
    if "CI" in os.environ:
        pytest.fail(f"{what}, and CI must run this test")
    pytest.skip(what)
