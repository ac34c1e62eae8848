"""Click prediction on any log that is a table with a header. The benchmark names the columns.

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
        path: a file of columns with a header, plain or `.gz`, or a folder of such files (`*.csv`,
            `*.tsv`, `*.txt`).
        label: the column of labels, which are 0 or 1.
        integers: the columns of numbers. A missing number is blank.
        categories: the columns of categorical values. A missing value is blank.
        separator: the character between two columns.
        validation_fraction: the fraction of the rows to validate on. They are the last rows, in time
            order, before the test rows.
        hash_size: the number of buckets of a categorical field, including the one for missing values.
        on_bad_rows: `raise` ends the run at the first malformed row. `skip` skips, counts and reports
            such rows.
        cache_dir: the folder for the prepared rows.
        test_fraction: the fraction of the rows to test on. They are the last rows, after those to
            validate on.

    Attributes:
        integers: the number of columns of numbers.
        categoricals: the number of columns of categorical values.

    Raises:
        DataError: an argument is out of range, or the data cannot be used.
    """

    provides = ("hash_size", "integers", "categoricals")  # what a model needs to know

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
