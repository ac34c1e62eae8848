"""Runs the command `paceline` from a checkout, as `python -m benchmarks`."""

import sys
from pathlib import Path

# Python has put the checkout first on the path. There its folders would hide other packages of the same
# names, such as Hugging Face's `datasets`.
checkout = Path(__file__).resolve().parent.parent
sys.path[:] = [place for place in sys.path if Path(place).resolve() != checkout]

from paceline.benchmarks.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
