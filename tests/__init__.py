"""The tests, in the same rooms as what they test, and what they share."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
