"""The algorithms, one per file. Paceline finds every file in this folder; `backend/` is the backend."""

import ast
import inspect
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paceline.lightning_modules.backend.algorithm import Algorithm


def titles() -> dict[str, str]:
    """Returns the title of every algorithm by its name. It reads the files and does not import them."""
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
    """Returns the class of every algorithm by its name."""
    # Imported here, so that `import lightning_modules` does not wait seconds for torch and Lightning.
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
