"""Compare distributed training algorithms on your own model, data, hardware and network.

    import paceline

    if __name__ == "__main__":  # worker processes import this file
        results = paceline.run("criteo", {"scale.workers": [1, 2]})
        print(results.trials[["algorithm", "workers", "time_to_target_s", "final_loss"]])

`Task` is the base class of a model, `Algorithm` that of a training algorithm. `run` runs a benchmark and
`load_results` reads the results of one that has been run. The command `paceline` does the same from a
shell.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paceline.benchmarks.api import load_results, run
    from paceline.lightning_modules.backend.algorithm import Algorithm
    from paceline.lightning_modules.backend.search import Choice, Integer, Real
    from paceline.lightning_modules.backend.task import Task
    from paceline.reports.measures.results import Results

# These names are imported at their first use, because importing torch and MLflow takes seconds.
_MODULES = {
    "Algorithm": "paceline.lightning_modules.backend.algorithm",
    "Choice": "paceline.lightning_modules.backend.search",
    "Integer": "paceline.lightning_modules.backend.search",
    "Real": "paceline.lightning_modules.backend.search",
    "Results": "paceline.reports.measures.results",
    "Task": "paceline.lightning_modules.backend.task",
    "load_results": "paceline.benchmarks.api",
    "run": "paceline.benchmarks.api",
}

__all__ = [
    "Algorithm",
    "Choice",
    "Integer",
    "Real",
    "Results",
    "Task",
    "load_results",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'paceline' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
