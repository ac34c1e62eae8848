"""Click prediction over any log that is a table with a header: columns are named in the benchmark.

See docs/datasets/click_tables.md for the format and for Avazu's log as an example.
"""

from pathlib import Path
from typing import Literal

from paceline.datasets.clicks import Clicks
from paceline.datasets.reading.cache import DataError
from paceline.datasets.reading.click_files import checked_fractions
from paceline.datasets.reading.click_tables import ClickTables, Columns
from paceline.datasets.reading.files import check


class ClickTable(Clicks):
    """Click prediction with the columns of a table.

    Args:
        path: a file of columns with a header, plain or `.gz`, or a folder of them (`*.csv`, `*.tsv`,
            `*.txt`).
        label: the column that is 0 or 1.
        integers: the columns of numbers, blank where missing.
        categories: the columns of values, blank where missing.
        separator: between two columns.
        validation_fraction: last fraction of the rows, in time order, to validate on.
        hash_size: buckets a categorical field, the one for missing values included.
        on_bad_rows: end the run at the first malformed row, or skip, count and report such rows.
        cache_dir: folder for the prepared rows.
        test_fraction: last fraction of the rows, behind those to validate on, to test on.

    Attributes:
        integers: how many columns of numbers.
        categoricals: how many columns of values.

    Raises:
        DataError: an argument is out of range, or the data cannot be used.
    """

    provides = ("hash_size", "integers", "categoricals")  # what a model has to know of the data

    def __init__(
        self,
        path: str,
        label: str,
        integers: list[str] | None = None,
        categories: list[str] | None = None,
        separator: str = ",",
        validation_fraction: float = 0.1,
        hash_size: int = 4096,
        on_bad_rows: Literal["raise", "skip"] = "raise",
        cache_dir: str = ".cache/click_table",
        test_fraction: float = 0.0,
    ) -> None:
        columns = Columns(label, integers or [], categories or [])
        _check(columns)
        single = len(separator) == 1 and separator not in '"\r\n'
        check("separator", separator, single, "one character that is no quote and no line end")
        fractions = checked_fractions(validation_fraction, test_fraction)
        check("hash_size", hash_size, 2 <= hash_size <= 2**31, "from 2 to 2^31")
        check("on_bad_rows", on_bad_rows, on_bad_rows in ("raise", "skip"), "raise or skip")
        self.integers, self.categoricals = len(columns.integers), len(columns.categories)
        place = Path(path).expanduser()
        source = ClickTables(hash_size, place, columns, separator, fractions, on_bad_rows)
        super().__init__(source, cache_dir)


def _check(columns: Columns) -> None:
    named = columns.names
    if len(named) == 1:
        raise DataError("integers and categories name no column; name one at least")
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise DataError(
            f"column {twice!r} is named twice in label, integers and categories; name it once"
        )
