"""Exports of Label Studio as plain rows: tasks with annotations (JSON), or their short forms (JSON-MIN, CSV)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError
from .rows import Rows
from .tables import AUDIO_COLUMNS, TEXT_COLUMNS

_SHORT_FORM = {"annotation_id", "annotator"}  # columns of all short forms


def flatten(rows: Rows, path: Path) -> Rows:
    """Return rows of recording, transcript, start and end; rows of other programs are unchanged.

    Raises:
        UserError: it is a short form that does not say which texts and times belong together.
    """
    some = rows.values[:10]
    if any(_is_task(row) for row in some):
        expand = _of_task
    elif any(set(row) >= _SHORT_FORM for row in some):
        expand = _of_short_form
    else:
        return rows
    flat = Rows(word=rows.word)
    for index, (number, row) in enumerate(zip(rows.numbers, rows.values, strict=True)):
        try:
            for one in expand(row):
                flat.add(number, one, rows.faults.get(index))
        except ValueError as error:
            raise UserError(f"data.datasets: {path} {rows.where(index)} {error}.") from None
    return flat


def _is_task(row: dict[str, Any]) -> bool:
    """Whether a row is a task of the full export; old versions call annotations `completions`."""
    return isinstance(row.get("data"), dict) and isinstance(row.get("annotations", row.get("completions")), list)


def _of_task(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of a task: one for each region, or one for the whole recording; without annotation, no transcript."""
    data = row.get("data")
    data = data if isinstance(data, dict) else {}
    plain = {"audio": _audio(data)} | {key: data[key] for key in ("split", "speaker") if isinstance(data.get(key), str)}
    results = _results(row)
    speakers = {one.get("id"): labels[0] for one in results if (labels := _strings(_value(one).get("labels")))}
    found = False
    for one in results:
        if one.get("type") == "textarea":
            found = True
            region = plain | {"text": " ".join(_strings(_value(one).get("text")))}
            if "start" in _value(one) or "end" in _value(one):
                region |= {key: _value(one).get(key) for key in ("start", "end")}
                region |= {"speaker": speakers.get(one.get("id"), "")}
            yield region
    if not found:
        yield plain | {"text": None}


def _audio(data: dict[str, Any]) -> Any:
    """A task's recording: under a usual name, or the only value that is text."""
    usual = next((data[name] for name in AUDIO_COLUMNS if name in data), None)
    texts = [value for value in data.values() if isinstance(value, str)]
    return usual if usual is not None else (texts[0] if len(texts) == 1 else None)


def _results(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of one annotation: the ground truth, or else the newest that was not cancelled."""
    annotations = row.get("annotations", row.get("completions"))
    valid = [
        one
        for one in (annotations if isinstance(annotations, list) else [])
        if isinstance(one, dict) and isinstance(one.get("result"), list) and not one.get("was_cancelled")
    ]
    if not valid:
        return []
    best = max(valid, key=lambda one: (bool(one.get("ground_truth")), str(one.get("updated_at") or "")))
    return [one for one in best["result"] if isinstance(one, dict)]


def _value(result: dict[str, Any]) -> dict[str, Any]:
    value = result.get("value")
    return value if isinstance(value, dict) else {}


def _strings(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, str)]


def _of_short_form(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of a row of the short forms: one for each region, if its times and text are together; else the row.

    Raises:
        ValueError: the regions' texts are separate from their times, and nothing says which belong together.
    """
    cells = {key: _decoded(value) for key, value in row.items()}
    column = next((name for name in TEXT_COLUMNS if name in cells), None)
    others = {key: value for key, value in row.items() if key != column}
    texts = cells.get(column or "")
    if isinstance(texts, list) and texts and all(isinstance(one, dict) and "text" in one for one in texts):
        for one in texts:
            yield others | {"text": " ".join(_strings(one["text"]))} | {key: one.get(key) for key in ("start", "end")}
        return
    if any(
        isinstance(cell, list) and any(isinstance(one, dict) and "start" in one for one in cell)
        for cell in cells.values()
    ):
        raise ValueError("does not say which transcript belongs to which region: export it from Label Studio as JSON")
    yield others | {"text": " ".join(_strings(texts.get("text") if isinstance(texts, dict) else texts))}


def _decoded(cell: Any) -> Any:
    """A cell; parsed as JSON if it is a list or an object in a table."""
    if isinstance(cell, str) and cell.startswith(("[", "{")):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell
