"""The algorithms, one file each. A file here is found by its place; the backend is in `backend/`."""

import ast
import inspect
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paceline.lightning_modules.backend.algorithm import Algorithm


def titles() -> dict[str, str]:
    """The title of every algorithm by its name, read from the files without importing them."""
    found = {}
    for path in _files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                stated = {
                    target.id: line.value.value
                    for line in node.body
                    if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant)
                    for target in line.targets
                    if isinstance(target, ast.Name)
                }
                if {"name", "title"} <= stated.keys():
                    found[str(stated["name"])] = str(stated["title"])
    return found


def find_algorithms() -> dict[str, "type[Algorithm]"]:
    """Every algorithm by its name."""
    # Imported here, as torch and Lightning take seconds that `import lightning_modules` need not.
    from paceline.lightning_modules.backend.algorithm import Algorithm

    found = {}
    for path in _files():
        module = import_module(f"{__name__}.{path.stem}")
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if issubclass(cls, Algorithm) and cls.__module__ == module.__name__:
                found[cls.name] = cls
    return found


def _files() -> list[Path]:
    return [p for p in sorted(Path(__file__).parent.glob("*.py")) if p.stem != "__init__"]
