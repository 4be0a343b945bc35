"""Optuna's part: the sampler, which proposes values, the pruner, which stops trials early, and the file of trials."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from .file import Sweep

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler


def build_sampler(method: str, seed: int) -> BaseSampler:
    """Return the sampler: TPE (NeurIPS 2011, Bergstra et al.), after ten trials at random."""
    from optuna.samplers import RandomSampler, TPESampler

    return TPESampler(seed=seed) if method == "bayes" else RandomSampler(seed=seed)


def build_pruner(sweep: Sweep) -> BasePruner:
    """Return the pruner: successive halving (arXiv 1810.05934), which W&B calls hyperband."""
    from optuna.pruners import NopPruner, SuccessiveHalvingPruner

    if sweep.early_stop is None:
        return NopPruner()
    return SuccessiveHalvingPruner(min_resource=sweep.early_stop.first, reduction_factor=sweep.early_stop.eta)


@contextmanager
def open_study(sweep: Sweep, settings: Sequence[str], folder: Path) -> Iterator[Study]:
    """Open the study of a search, in `study.db`; make it if there is none.

    Raises:
        UserError: it belongs to another search, whose trials cannot be compared with new ones.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # the search prints its own messages
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder.resolve() / 'study.db'}")
    try:
        study = optuna.create_study(
            storage=storage,
            pruner=build_pruner(sweep),
            study_name=sweep.name,
            direction="minimize" if sweep.minimize else "maximize",
            load_if_exists=True,
        )
        asked = {
            "method": sweep.method,
            "metric": sweep.metric,
            "parameters": [repr(parameter) for parameter in sweep.parameters],
            "settings": list(settings),
        }
        for key, value in asked.items():
            if study.user_attrs.setdefault(key, value) != value:
                raise UserError(
                    f"{folder} holds a sweep with other {key}: give this one another `name` in its file, or "
                    f"move the folder away. It has {study.user_attrs[key]}, this one {value}."
                )
            study.set_user_attr(key, value)
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()
