"""The algorithms, one file each. A file here is found by its place; the backend is in `backend/`."""

import inspect
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paceline.lightning_modules.backend.algorithm import Algorithm


def find_algorithms() -> dict[str, "type[Algorithm]"]:
    """Every algorithm by its name."""
    # Imported here, as torch and Lightning take seconds that `import lightning_modules` need not.
    from paceline.lightning_modules.backend.algorithm import Algorithm

    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem == "__init__":
            continue
        module = import_module(f"{__name__}.{path.stem}")
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if issubclass(cls, Algorithm) and cls.__module__ == module.__name__:
                found[cls.name] = cls
    return found
