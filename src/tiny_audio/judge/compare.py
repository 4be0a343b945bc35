"""Two recognizers on the same clips: is the difference real?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import CHECKPOINTS_OWN, Config, SearchChanges
from ..errors import UserError
from ..evaluation.report import verdict
from ..evaluation.score import Result, Transcript, difference
from ..evaluation.scoring import Rule, default_rules
from ..inference.checkpoints import evaluate_checkpoints
from ..inference.sets import Sets, open_sets
from .pipelines import judge_model
from .predictions import on_the_same_clips, read_predictions, to_result

logger = logging.getLogger(__name__)

CHECKPOINT, PREDICTIONS, MODEL = "checkpoint", "predictions", "model"
WORST = 10  # clips that are named in the terminal


def kind_of(name: str) -> str:
    """Return the kind of a recognizer: a checkpoint, a prediction file, or a model that transformers runs."""
    return {".pt": CHECKPOINT, ".jsonl": PREDICTIONS}.get(Path(name).suffix, MODEL)


def check_recognizer(name: str) -> None:
    """Refuse a name that is none of these kinds, before anything is loaded.

    Raises:
        UserError: there is no such file, or the folder holds no model.
    """
    path = Path(name)
    if kind_of(name) != MODEL:
        if not path.is_file():
            raise UserError(f"there is no file {name}.")
    elif path.is_dir() and not (path / "config.json").is_file():
        raise UserError(f"the folder {name} holds no model (config.json); name a checkpoint (.pt) in it, or an export.")
    elif not path.exists() and name.count("/") != 1:
        raise UserError(
            f"there is no {name}: name a checkpoint (.pt), a prediction file (.jsonl), a folder with a model, or a "
            "model of the Hub (owner/name)."
        )


def compare(
    names: Sequence[str],
    settings: Callable[[dict[str, Any] | None], Config],
    rules: Sequence[Rule] | None = None,
    encoder: str | None = None,
    decoder: str | None = None,
    search: SearchChanges = CHECKPOINTS_OWN,
) -> tuple[list[Result], Sets | None]:
    """Judge two recognizers on the same clips.

    Args:
        names: of the two, see `kind_of`.
        settings: turns the configuration in a checkpoint into that of the evaluation; None: there is no
            checkpoint.
        rules: of scoring; None: those of `default_rules`.
        encoder, decoder: the present folders of the checkpoints' models, if they were moved since training.
        search: what differs from each checkpoint's own.

    Returns:
        Two results, with transcripts of the same clips in the same order, and the sets; the sets are None if both
        are prediction files.

    Raises:
        UserError: one cannot be read, or they have no clips in common.
    """
    kinds, titles = [kind_of(name) for name in names], titles_of(names)
    found: dict[int, Result] = {}
    sets: Sets | None = None
    if checkpoints := [i for i in (0, 1) if kinds[i] == CHECKPOINT]:
        paths = [Path(names[i]) for i in checkpoints]
        results, sets = evaluate_checkpoints(paths, settings, encoder, decoder, rules, search)
        if len(results) < len(paths):
            raise UserError("a checkpoint could not be read, so there is nothing to compare it with.")
        found |= zip(checkpoints, results, strict=True)
    elif MODEL in kinds:
        sets = open_sets(settings(None), rules)
    for i in (0, 1):
        if kinds[i] == MODEL:
            assert sets is not None
            found[i] = judge_model(names[i], titles[i], sets)
    if sets is not None:
        rules = sets.rules
    written = [found[i].transcripts if i in found else read_predictions(Path(names[i])) for i in (0, 1)]
    if PREDICTIONS in kinds:
        rules = rules or default_rules(row.reference for row in written[0])
        found |= dict(enumerate(_in_common(found, written, names, titles, rules)))
    return [replace(found[i], name=titles[i]) for i in (0, 1)], sets


def _in_common(
    found: dict[int, Result],
    written: Sequence[list[Transcript]],
    names: Sequence[str],
    titles: Sequence[str],
    rules: Sequence[Rule],
) -> list[Result]:
    """Score both recognizers on the clips that both have."""
    both = on_the_same_clips(*written)
    results = []
    for i in (0, 1):
        if missing := len(written[i]) - len(both[i]):
            logger.warning("%s: %d clips that the other does not have are left out.", titles[i], missing)
        whole = found.get(i)
        own = to_result(both[i], Path(names[i]), titles[i], rules)
        results.append(whole if whole is not None and not missing else own)
    return results


def titles_of(names: Sequence[str]) -> list[str]:
    """Return short titles of two recognizers for tables: the ends of their names, as far as needed to differ."""
    for parts in range(1, 9):
        short = ["/".join(Path(name).parts[-parts:]) for name in names]
        if short[0] != short[1]:
            return short
    return [f"{names[0]} (first)", f"{names[1]} (second)"]


def decide(results: Sequence[Result]) -> str:
    """Return one line on whether the difference of two recognizers is real."""
    first, second = results
    return verdict(first, second, difference(first.total, second.total))


def differing(results: Sequence[Result]) -> list[tuple[Transcript, Transcript, int]]:
    """Return the clips on which two differ most: both transcripts, and how many more errors the second has."""
    first, second = results
    more = (second.total.errors - first.total.errors).tolist()
    order = sorted(range(len(more)), key=lambda i: -abs(more[i]))
    return [(first.transcripts[i], second.transcripts[i], more[i]) for i in order[:WORST] if more[i]]
