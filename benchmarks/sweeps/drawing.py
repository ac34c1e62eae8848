"""The samplers of a study, and the importance of its parameters."""

import warnings
from contextlib import suppress
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.study import Study

from paceline.benchmarks.spec.settings import Sampler
from paceline.lightning_modules.backend.search import Choice, Dimension, Integer, Real

optuna.logging.set_verbosity(optuna.logging.ERROR)
# Optuna warns about two experimental features in use: the groups of TPE and the retry of trials.
warnings.filterwarnings("ignore", category=ExperimentalWarning)


def make_sampler(name: Sampler, budget: int, seed: int) -> optuna.samplers.BaseSampler:
    """Returns the sampler of that name.

    TPE draws the first third of the budget at random, at least 3 trials.
    """
    match name:
        case "tpe":
            return optuna.samplers.TPESampler(
                n_startup_trials=max(3, budget // 3),
                multivariate=True,
                group=True,  # some dimensions exist only for some values of another
                constant_liar=True,  # running trials of other processes count as bad ones
                seed=seed,
            )
        case "nsga2":
            return optuna.samplers.NSGAIISampler(population_size=max(4, budget // 4), seed=seed)
        case "random":
            return optuna.samplers.RandomSampler(seed=seed)


def importance(study: Study) -> dict[str, float] | None:
    """Returns the importance of each parameter for the first objective, as shares by PED-ANOVA.

    It returns None if there are too few trials or only one parameter.

    Reference: Watanabe et al. (2023), "PED-ANOVA".
    """
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    with warnings.catch_warnings(), suppress(ValueError, RuntimeError):
        # With too few trials, PED-ANOVA warns and returns equal shares.
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
