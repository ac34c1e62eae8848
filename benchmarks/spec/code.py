"""The files whose code decides what a trial computes, and their hashes.

They are those that every trial runs, those of its own classes, and those that these import. A file that a
trial does not run, such as that of another algorithm, does not change its identity.
"""

import ast
import hashlib
import site
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from paceline.benchmarks.spec.plugin import Plugin
from paceline.home import PACKAGE

OF_EVERY_TRIAL = (
    "lightning_modules/backend/*.py",
    "datasets/batches.py",
    "datasets/partition.py",
    *(f"benchmarks/trials/{name}.py" for name in ("dealing", "faults", "meter", "rank")),
)
FOLLOWED = (
    "lightning_modules",
    "datasets",
)  # the folders of Paceline in which imports are followed


def hashes(files: Mapping[str, Path]) -> dict[str, str]:
    """Returns 8 hex digits for the content of each file, by its name."""
    return {name: _hash(file) for name, file in sorted(files.items())}


def all_files() -> dict[str, Path]:
    """Returns the files of Paceline that some trial may run, by their names."""
    return _of_package(*OF_EVERY_TRIAL, *(f"{folder}/**/*.py" for folder in FOLLOWED))


def files_of(plugins: Iterable[Plugin]) -> dict[str, Path]:
    """Returns the files that a trial with these classes runs, by their names.

    The name of a file of Paceline is its path in the package. That of another file is its path in the
    folder from which it is imported. The file of a class with a recorded text is left out, because its
    text counts by itself.
    """
    found = _of_package(*OF_EVERY_TRIAL)
    for plugin in plugins:
        found |= _files_of(plugin.place, plugin.source)
    return found


def _of_package(*patterns: str) -> dict[str, Path]:
    paths = (path for pattern in patterns for path in PACKAGE.glob(pattern))
    return {str(path.relative_to(PACKAGE)): path for path in paths}


@cache
def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:8]


@cache
def _files_of(place: str, source: str | None) -> dict[str, Path]:
    if source is not None:
        root = Path(place).parent
        files = _imported(root, _dotted(source, []))
    else:
        spec = find_spec(place)
        if spec is None or spec.origin is None:
            return {}
        file = Path(spec.origin)
        root = file.parents[place.count(".") + (file.name == "__init__.py")]
        files = {file} if _is_installed(file) else _imported(root, {place})
    return {
        str(file.relative_to(PACKAGE if PACKAGE in file.parents else root)): file for file in files
    }


def _imported(root: Path, names: set[str]) -> set[Path]:
    """Returns the files of modules in the folder `root`, and of those that they import from there."""
    found: set[Path] = set()
    while names:
        files = {file for name in names for file in _resolved(root, name)} - found
        found |= files
        names = set()
        for file in files:
            parts = file.relative_to(root).with_suffix("").parts
            package = parts[:-1]
            names |= _dotted(file.read_text(encoding="utf-8", errors="replace"), list(package))
    return found


def _resolved(root: Path, name: str) -> Iterator[Path]:
    path = root.joinpath(*name.split("."))
    for file in (path.with_name(f"{path.name}.py"), path / "__init__.py"):
        ours = PACKAGE in file.parents
        if file.is_file() and not (ours and file.relative_to(PACKAGE).parts[0] not in FOLLOWED):
            yield file


def _dotted(text: str, package: list[str]) -> set[str]:
    """Returns the dotted names that a file may import, given the package that it is in."""
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)} - {""}
    return names


def _is_installed(file: Path) -> bool:
    """Returns whether a file belongs to another installed package, whose imports are not followed."""
    folders = [*site.getsitepackages(), f"{sys.base_prefix}/lib"]
    installed = any(Path(folder) in file.parents for folder in folders)
    return installed and PACKAGE not in file.parents
