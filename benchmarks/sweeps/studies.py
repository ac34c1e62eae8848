"""Optuna's side of a sweep: where studies are kept, and how their trials are handed out.

Several processes, on one machine or on many, may work on one study. Whatever hands out or takes back a
trial happens under one lock of the storage, so no two processes draw the same configuration and none
draws more than the budget allows. The trial of a process that has ended is given out again: at once where
that process ran on this host, after its heartbeats have stopped where it ran on another.
"""

import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from paceline.benchmarks.spec.settings import Pruner, Sampler
from paceline.benchmarks.trials.addresses import masked
from paceline.benchmarks.trials.environment import is_gone, this_process
from paceline.benchmarks.trials.store import StoreError
from paceline.lightning_modules.backend.search import Choice, Dimension, Integer, Real

# Of a trial: the process that runs it, why it ended without values, which trial it repeats.
PROCESS, REASON, DUPLICATE_OF = "process", "reason", "duplicate_of"
HEARTBEAT_S = 30
DUPLICATES_IN_A_ROW = 20  # after which a space counts as exhausted
LOCK = 0x9ACE  # any number that no other program locks in the same database

optuna.logging.set_verbosity(optuna.logging.ERROR)
# Of what we use: the groups of TPE, and heartbeats, which `hand_out` and `Studies` see to.
warnings.filterwarnings("ignore", category=ExperimentalWarning)
warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed")

_retry = RetryHeartbeatStaleTrialCallback(max_retry=5)


class Studies:
    """A storage of studies.

    Args:
        uri: the file of a journal, or the address of a database, `postgresql://...` or `sqlite:///...`.
        heartbeat_s: seconds between two heartbeats of a running trial; after twice as many without one it
            is given out again. Only databases have them.

    Raises:
        StoreError: it cannot be opened.
    """

    def __init__(self, uri: str, heartbeat_s: int = HEARTBEAT_S) -> None:
        self.heartbeat_s = heartbeat_s
        self.storage: RDBStorage | JournalStorage
        # A connection that a restart of the database has broken is replaced.
        lasting = {"pool_pre_ping": True}
        self._server: sqlalchemy.Engine | None = None
        if "://" in uri and not uri.startswith(("postgresql", "sqlite:///")):
            raise StoreError(
                f"studies are kept in a file, sqlite or PostgreSQL, not in {masked(uri)}"
            )
        file = Path(uri.removeprefix("sqlite:///"))
        self._lock_file = file.with_name(f"{file.name}.handing_out")
        try:
            if uri.startswith("postgresql"):
                self._server = sqlalchemy.create_engine(uri, **lasting)
            else:
                file.parent.mkdir(parents=True, exist_ok=True)
            with self.lock():  # two first writers would both create the tables
                if "://" in uri:
                    self.storage = RDBStorage(
                        uri,
                        engine_kwargs=lasting,
                        heartbeat_interval=heartbeat_s,
                        heartbeat_stale_trial_callback=_retry,
                    )
                else:
                    self.storage = JournalStorage(JournalFileBackend(uri))
        except (OSError, SQLAlchemyError, ModuleNotFoundError) as error:
            reason = masked((str(error).splitlines() or [type(error).__name__])[0])
            raise StoreError(f"the studies in {masked(uri)} cannot be opened: {reason}") from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held while trials are handed out; it goes with the process that holds it."""
        if self._server is None:
            with FileLock(self._lock_file):
                yield
            return
        with self._server.connect() as connection:
            # Until the end of the transaction, which is that of the block.
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({LOCK})"))
            yield

    def study(self, name: str, objectives: int = 1) -> Study:
        """The study of that name, made where there is none; every objective is minimised."""
        return optuna.create_study(
            study_name=name,
            storage=self.storage,
            directions=["minimize"] * objectives,
            load_if_exists=True,
        )

    @contextmanager
    def heartbeats(self, trial: optuna.Trial) -> Iterator[None]:
        """Says that `trial` is being run for as long as the block lasts."""
        storage = self.storage
        if not isinstance(storage, RDBStorage):
            yield
            return
        ended = threading.Event()

        def beat() -> None:
            while not ended.is_set():
                # A heartbeat that the database missed is made good by the next.
                with suppress(SQLAlchemyError, StorageInternalError):
                    storage.record_heartbeat(trial._trial_id)
                ended.wait(self.heartbeat_s)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def hand_out(
    study: Study, budget: int, draw: Callable[[optuna.Trial], None], sampler: Sampler
) -> optuna.Trial | None:
    """The next trial of a study; the caller holds the lock.

    Args:
        study: which one.
        budget: how many trials it may have. Those that were taken back and those that repeat another
            are not counted.
        draw: draws the parameters of a trial.
        sampler: what they are drawn with.

    Returns:
        the trial with its parameters; None where the budget is used up or nothing new is left to draw.
    """
    take_back(study)
    for _ in range(DUPLICATES_IN_A_ROW):
        trials = study.get_trials(deepcopy=False)
        waiting = any(trial.state == TrialState.WAITING for trial in trials)
        if not waiting and len(counted(trials)) >= budget:
            return None
        # Seeded by its place in the study, whatever code and machine: the same draws whoever asks.
        title, _, _ = study.study_name.rpartition(" (")
        seed = zlib.crc32(f"{title}/{len(trials)}".encode())
        study.sampler = make_sampler(sampler, budget, seed)
        trial = study.ask()
        trial.set_user_attr(PROCESS, this_process())
        draw(trial)
        twin = _twin(trial, trials)
        if twin is None:
            return trial
        trial.set_user_attr(DUPLICATE_OF, twin.number)
        study.tell(trial, state=TrialState.FAIL)
        if not trial.params:
            return None  # nothing is drawn at all
    return None


def queue(study: Study, configurations: list[dict[str, Any]], again: bool = False) -> None:
    """Queues configurations to be tried before any are drawn; the caller holds the lock.

    Args:
        study: which one; what it has had is not queued twice.
        configurations: parameters by name.
        again: whether those that only failed are.
    """
    for configuration in configurations:
        same = [
            trial
            for trial in study.get_trials(deepcopy=False)
            if trial.system_attrs.get("fixed_params") == configuration
        ]
        if not same or (again and all(trial.state == TrialState.FAIL for trial in same)):
            study.enqueue_trial(configuration)


def counted(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that use up a budget."""
    again = {n for trial in trials for n in trial.system_attrs.get("retry_history", ())}
    return [t for t in trials if t.number not in again and DUPLICATE_OF not in t.user_attrs]


def _twin(trial: optuna.Trial, others: list[FrozenTrial]) -> FrozenTrial | None:
    """The trial of the same parameters that is running or has ended with a result."""
    states = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
    same = (t for t in others if t.number != trial.number and t.params == trial.params)
    return next((t for t in same if t.state in states), None)


def take_back(study: Study) -> None:
    """Queues the trials of processes that have ended once more; the caller holds the lock."""
    optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=True, states=(TrialState.RUNNING,)):
        process = trial.user_attrs.get(PROCESS)
        # This process asks for a trial only when it has none: one of its own was lost on the way.
        if process is None or process == this_process() or is_gone(process):
            give_back(study, trial)


def give_back(study: Study, trial: FrozenTrial) -> None:
    """Ends a trial that was interrupted and queues its parameters once more."""
    study.tell(trial.number, state=TrialState.FAIL)
    _retry(study, trial)


def make_sampler(name: Sampler, budget: int, seed: int) -> optuna.samplers.BaseSampler:
    """The sampler of that name; the first third of a budget is drawn at random."""
    match name:
        case "tpe":
            return optuna.samplers.TPESampler(
                n_startup_trials=max(3, budget // 3),
                multivariate=True,
                group=True,  # for dimensions that depend on another
                constant_liar=True,  # other processes' running trials count as bad ones
                seed=seed,
            )
        case "nsga2":
            return optuna.samplers.NSGAIISampler(population_size=max(4, budget // 4), seed=seed)
        case "random":
            return optuna.samplers.RandomSampler(seed=seed)


def make_pruner(name: Pruner, evaluations: int) -> optuna.pruners.BasePruner:
    """The pruner of that name, over the evaluations of a trial as its resource.

    It halves what is left after a quarter and after half of them: budgets are small, and the learning
    rate that is best at first is not always the one that ends best.
    """
    first = max(1, evaluations // 4)
    match name:
        case "hyperband":
            return optuna.pruners.HyperbandPruner(
                min_resource=first, max_resource=evaluations, reduction_factor=2
            )
        case "successive_halving":
            return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=2)
        case "none":
            return optuna.pruners.NopPruner()


def importance(study: Study) -> dict[str, float] | None:
    """The share of each parameter in what makes the first objective good, by PED-ANOVA.

    Watanabe et al. (2023), "PED-ANOVA". None where there are too few trials or one parameter alone.
    """
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    with warnings.catch_warnings(), suppress(ValueError, RuntimeError):
        # It says so where there are too few trials, and gives equal shares.
        warnings.filterwarnings("ignore", message=".*low `target` values.*")
        warnings.filterwarnings("error", message=".*too small.*")
        with suppress(UserWarning):
            shares = optuna.importance.get_param_importances(
                study, evaluator=evaluator, target=lambda trial: trial.values[0]
            )
            return shares if len(shares) > 1 else None
    return None


def suggest(trial: optuna.Trial, name: str, dimension: Dimension) -> Any:
    """Draws one parameter."""
    match dimension:
        case Real(low, high, log):
            return trial.suggest_float(name, low, high, log=log)
        case Integer(low, high, log):
            return trial.suggest_int(name, low, high, log=log)
        case Choice(values):
            return trial.suggest_categorical(name, values)
