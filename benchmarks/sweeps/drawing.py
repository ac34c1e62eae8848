"""What draws the configurations of a study, gives up its hopeless trials, and weighs its parameters."""

import warnings
from contextlib import suppress
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.study import Study

from paceline.benchmarks.spec.settings import Pruner, Sampler
from paceline.lightning_modules.backend.search import Choice, Dimension, Integer, Real

optuna.logging.set_verbosity(optuna.logging.ERROR)
# Of what we use: the groups of TPE, and what queues a trial once more.
warnings.filterwarnings("ignore", category=ExperimentalWarning)


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
