"""What is run: one YAML a benchmark, the command line, the runner, the tracking."""

from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The folders are importable by their plain names, as this is an application run from its checkout;
# another package of the same name must never be taken for one of them.
for _name in ("datasets", "lightning_modules", "reports"):
    _spec = find_spec(_name)
    if _spec is None or _spec.origin is None or Path(_spec.origin).resolve().parent != ROOT / _name:
        raise ImportError(
            f"`{_name}` is {_spec.origin if _spec else 'missing'}, not {ROOT / _name}:"
            f" run from {ROOT}, with nothing before it on PYTHONPATH that holds a `{_name}`"
        )
