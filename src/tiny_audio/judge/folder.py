"""A report as a folder: figures for programs, the transcript of each clip, and a page for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from .. import __version__
from ..errors import UserError
from ..evaluation.breakdown import Part, by_duration, by_speaker
from ..evaluation.report import to_rows
from ..evaluation.score import Result, difference, macro_average, transcript_rows
from ..evaluation.scoring import RULES
from ..files import write_whole
from ..inference.sets import Sets
from .page import build_page


def write_report(
    folder: Path,
    results: Sequence[Result],
    ranked: Sequence[Result],
    shown: Sequence[Result],
    verdict: str,
    sets: Sets | None,
) -> None:
    """Write `eval.json`, `predictions.jsonl` and `report.html` into a folder.

    Args:
        folder: created if it does not exist.
        results: all results.
        ranked: best first.
        shown: one or two of them, whose transcripts are written; those of a second go to `predictions-2.jsonl`.
        verdict: one line on the difference of two.
        sets: the audio is read from them; None: there is none.

    Raises:
        UserError: it cannot be written.
    """
    page = build_page(results, shown, verdict, None if sets is None else sets.read)
    figures = json.dumps(to_figures(results, ranked, shown, verdict), indent=2, ensure_ascii=False)
    content = {"eval.json": figures + "\n", "report.html": page}
    for number, result in enumerate(shown, 1):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in transcript_rows(result))
        content["predictions.jsonl" if number == 1 else f"predictions-{number}.jsonl"] = "".join(lines)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in content.items():
            write_whole((folder / name).resolve(), text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise UserError(f"report={folder}: cannot be written ({error.strerror}).") from None


def to_figures(
    results: Sequence[Result], ranked: Sequence[Result], shown: Sequence[Result], verdict: str
) -> dict[str, Any]:
    """Return the content of `eval.json`; rates are fractions, not percentages."""
    total = results[0].total
    figures: dict[str, Any] = {
        "scoring": {name: RULES[name].description for name in (total.rule.name, *total.others)},
        "results": to_rows(results, ranked),
        "parts": [
            {
                "checkpoint": str(result.path),
                "scoring": result.total.rule.name,
                "by_duration": _parts(by_duration(result.transcripts, result.total)),
                "by_speaker": _parts(by_speaker(result.transcripts, result.total)),
            }
            for result in results
        ],
        "versions": {
            "tiny_audio": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    if len(results[0].sets) > 1:
        means = {str(result.path): macro_average(list(result.sets.values())) for result in results}
        figures["macro_average"] = [
            {"checkpoint": path, "scoring": total.rule.name, "wer": rate, "wer_low": low, "wer_high": high}
            for path, (rate, low, high) in means.items()
        ]
    if len(shown) == 2:
        gap = difference(shown[0].total, shown[1].total)
        paths = {"first": str(shown[0].path), "second": str(shown[1].path), "scoring": total.rule.name}
        figures["difference"] = paths | gap._asdict() | {"verdict": verdict}
    return figures


def _parts(parts: Sequence[Part]) -> list[dict[str, Any]]:
    return [asdict(part) | {"wer": part.rate} for part in parts]
