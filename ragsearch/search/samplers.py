"""Who draws the values of a trial: Optuna's samplers, each made for one trial.

A sampler is seeded from the seed of the search and the number of the trial, so that a search
that was interrupted draws what it would have drawn otherwise.
"""

import numpy as np
import optuna

from ragsearch.spec import Spec


def make_sampler(spec: Spec, trial_number: int) -> optuna.samplers.BaseSampler:
    """Make the sampler of a trial."""
    seed = int(np.random.SeedSequence([spec.file.seed, trial_number]).generate_state(1)[0])
    if spec.file.search.algorithm == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(
        seed=seed,
        n_startup_trials=spec.file.search.startup_trials,
        multivariate=True,
        constant_liar=True,  # concurrent trials do not crowd one place
    )
