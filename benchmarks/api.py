"""The functions of `import paceline`: run a benchmark and read its results."""

from collections.abc import Mapping
from typing import Any

from paceline.benchmarks.spec.reading import load_benchmark, load_workload
from paceline.benchmarks.trials.display import TerminalDisplay, console
from paceline.benchmarks.trials.runner import run as run_benchmark
from paceline.benchmarks.trials.store import open_store
from paceline.home import default_store, make_ready
from paceline.lightning_modules.backend.launch import interruptible
from paceline.lightning_modules.backend.local_ranks import start_fork_server
from paceline.reports.measures.link import DEFAULT
from paceline.reports.measures.results import Results, load


def run(
    benchmark: str,
    settings: Mapping[str, Any] | None = None,
    *,
    store: str | None = None,
    link: str = DEFAULT,
    keep_going: bool = False,
) -> Results:
    """Runs the missing trials of a benchmark and returns the results of all its trials.

    Call it under `if __name__ == "__main__":`, because worker processes import the main module.

    Args:
        benchmark: the name of a shipped benchmark, the path of a YAML file, or `FILE.py:CLASS` for a
            task of your own.
        settings: fields of the YAML to override, by their dotted name, e.g. `{"scale.workers": [1, 2]}`.
        store: the URI of the MLflow store. The default is the store of the command `paceline`.
        link: the preset of the network link for which times are modelled.
        keep_going: if True, the configurations that fail in the rehearsal are left out.

    Raises:
        ConfigError: if a setting or a class is wrong.
        HomeError: if the folder of the state or for temporary files cannot be used, for example because
            it is read-only.
        RehearsalFailed: if a configuration fails in the rehearsal and `keep_going` is False.
        StoreError: if the store cannot be opened.
    """
    make_ready()
    start_fork_server("paceline.benchmarks.trials.rank")
    overrides = [f"--{name}={value}" for name, value in (settings or {}).items()]
    load_any = load_workload if ".py:" in benchmark else load_benchmark
    loaded = load_any(benchmark, overrides)
    client = open_store(store or default_store())
    with interruptible(), TerminalDisplay(console) as display:
        run_benchmark(loaded, client, display, keep_going)
    return load(client, loaded.name, link)


def load_results(benchmark: str, *, store: str | None = None, link: str = DEFAULT) -> Results:
    """Returns the results of the latest run of a benchmark.

    Args:
        benchmark: the name of the benchmark.
        store: the URI of the MLflow store. The default is the store of the command `paceline`.
        link: the preset of the network link for which times are modelled.

    Raises:
        StoreError: if the store does not exist or cannot be opened.
        NoResults: if the benchmark has not been run.
    """
    return load(open_store(store or default_store(), create=False), benchmark, link)
