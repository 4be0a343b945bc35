"""Prediction files: the transcripts of any recognizer, a line for each clip."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..decoding import AUDIO_SUFFIXES
from ..errors import UserError
from ..evaluation.score import Result, Score, Transcript, note_symptoms, score
from ..evaluation.scoring import Rule
from ..text import normalize_for_scoring

#: The names of each field: ours, and those in manifests of NeMo and the Open ASR leaderboard.
REFERENCE, HYPOTHESIS = ("reference", "text"), ("hypothesis", "pred_text", "prediction")
NAME, SECONDS = ("name", "audio_filepath", "audio", "id"), ("seconds", "duration")
Key = tuple[str, str, int]


def read_predictions(path: Path) -> list[Transcript]:
    """Read a prediction file (.jsonl): `predictions.jsonl` of a report, or a manifest with `pred_text`.

    Raises:
        UserError: it cannot be read, or a line has no reference or no hypothesis.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except json.JSONDecodeError:
            item = None
        if not isinstance(item, dict):
            raise UserError(f"{path}:{number} is not a JSON object.")
        rows.append(_row(item, path, number))
    if not rows:
        raise UserError(f"{path} holds no prediction.")
    return note_symptoms(rows)


def _row(item: dict[str, Any], path: Path, number: int) -> Transcript:
    def first(names: Sequence[str], needed: bool) -> Any:
        for name in names:
            if name in item:
                return item[name]
        if needed:
            raise UserError(f"{path}:{number} has no {names[0]} (or {', '.join(names[1:])}).")
        return None

    reference, hypothesis = first(REFERENCE, True), first(HYPOTHESIS, True)
    if not isinstance(reference, str) or not (hypothesis is None or isinstance(hypothesis, str)):
        raise UserError(f"{path}:{number}: reference and hypothesis must be texts.")
    seconds, speaker, name = first(SECONDS, False), item.get("speaker"), first(NAME, False)
    return Transcript(
        str(item.get("dataset") or path.stem),
        str(name or number),
        reference,
        hypothesis,
        tuple(map(str, item.get("notes") or ())),
        float(seconds) if isinstance(seconds, int | float) else None,
        None if speaker is None else str(speaker),
    )


def to_result(rows: Sequence[Transcript], path: Path, name: str, rules: Sequence[Rule]) -> Result:
    """Score transcripts, set by set."""
    sets: dict[str, list[Transcript]] = defaultdict(list)
    for row in rows:
        sets[row.dataset].append(row)
    scores: dict[str, Score] = {dataset: score(own, rules=rules) for dataset, own in sets.items()}
    return Result(path, name, None, scores, [row for own in sets.values() for row in own])


def on_the_same_clips(first: Sequence[Transcript], second: Sequence[Transcript]) -> tuple[list[Transcript], ...]:
    """Return two recognizers' transcripts of the clips that both have, in the order of the first.

    Two clips are the same if their references and their names, without folder and suffix, are equal. The set has to be
    equal too if both recognizers have a set of the same name.

    Raises:
        UserError: they have no clip in common.
    """
    by_set = bool({row.dataset for row in first} & {row.dataset for row in second})
    others = dict(zip(_keys(second, by_set), second, strict=True))
    pairs = [(row, others[key]) for key, row in zip(_keys(first, by_set), first, strict=True) if key in others]
    if not pairs:
        raise UserError(
            f"the two have no clip in common: {first[0].name} and {second[0].name} are the first of each; clips are "
            "matched by name and transcript."
        )
    left = [row for row, _ in pairs]
    return left, [other._replace(dataset=row.dataset, reference=row.reference) for row, other in pairs]


def _keys(rows: Sequence[Transcript], by_set: bool) -> list[Key]:
    """Return a key for each clip; clips with the same name and reference are numbered."""
    seen: Counter[tuple[str, str]] = Counter()
    keys = []
    for row in rows:
        path = Path(row.name)
        name = path.stem if path.suffix.lower() in AUDIO_SUFFIXES else path.name
        key = (row.dataset if by_set else "") + "\0" + name, normalize_for_scoring(row.reference)
        keys.append((*key, seen[key]))
        seen[key] += 1
    return keys
