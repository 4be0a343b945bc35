"""`report.html`: one file that needs no network and no other file, to read and hear the errors of a recognizer."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import soundfile
from kaldialign import align

from ..audio import AudioError
from ..evaluation.breakdown import Part, by_duration, by_speaker
from ..evaluation.report import averages, blocks_of, notes, rules_of, table_of
from ..evaluation.score import Result
from ..evaluation.scoring import Rule
from ..lengths import SAMPLE_RATE
from ..pages import render

CLIPS = 10_000  # listed on a page: about 8 MB
AUDIO_SECONDS = 1800.0  # on a page: about 8 MB
SPEAKERS = 20  # listed on a page
NOTHING = "\0"  # in the place of a word that was inserted or deleted
Read = Callable[[int], np.ndarray]


def build_page(results: Sequence[Result], shown: Sequence[Result], verdict: str = "", read: Read | None = None) -> str:
    """Return the page.

    Args:
        results: recognizers whose figures are listed.
        shown: one or two of them, on the same clips, whose transcripts are shown.
        verdict: one line on the difference of two.
        read: returns a clip's samples (S,), 16 kHz, by its number among the transcripts; None: there is no audio.

    Returns:
        HTML.
    """
    first = shown[0]
    clips = worst_first([to_clip(number, shown) for number in range(len(first.transcripts))])[:CLIPS]
    total = len(first.transcripts)
    more = "" if len(clips) == total else f"; the {len(clips):,} of them in which there is most to see are listed below"
    data = {
        "systems": [result.name for result in shown],
        "rule": first.total.rule.name,
        "clips": clips,
        "audio": {} if read is None else read_sounds(clips, read),
    }
    return render(
        "judge/page.html",
        title=" against ".join(result.name for result in shown),
        about=f"{', '.join(first.sets)}: {total:,} clips{more}",
        verdict=verdict,
        figures=figures(results),
        remarks=[*averages(results), *rules_of(results[0].total)],
        parts=parts(shown),
        data=to_script(data),
    )


def to_script(data: dict[str, Any]) -> str:
    """Return JSON that cannot end the HTML element around it."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def to_clip(number: int, shown: Sequence[Result]) -> dict[str, Any]:
    """Return a clip for the page: the reference, and the errors, notes and alignment of each recognizer."""
    row = shown[0].transcripts[number]
    systems = []
    for result in shown:
        own, total = result.transcripts[number], result.total
        systems.append(
            {
                "errors": int(total.errors[number]),
                "notes": list(own.notes),
                "read": own.hypothesis is not None,
                "steps": align_words(own.reference, own.hypothesis or "", total.rule),
            }
        )
    return {
        "number": number,
        "set": row.dataset,
        "name": row.name,
        "seconds": row.seconds,
        "speaker": row.speaker,
        "words": int(shown[0].total.lengths[number]),
        "said": row.reference,
        "systems": systems,
    }


def align_words(reference: str, hypothesis: str, rule: Rule) -> list[list[str]]:
    """Align a transcript with its reference, after normalization by a rule.

    Returns:
        Steps in order: `["=", words]` for right words, with spaces between; `["s", said, written]` for a
        substitution, `["d", said]` for a deletion, `["i", written]` for an insertion.
    """
    reference_words, hypothesis_words = rule.split(reference)[0], rule.split(hypothesis)[0]
    steps: list[list[str]] = []
    for left, right in align(reference_words, hypothesis_words, NOTHING, sclite_mode=rule.sclite):
        if left == right and steps and steps[-1][0] == "=":
            steps[-1][1] += f" {left}"
        elif left == right:
            steps.append(["=", left])
        elif left == NOTHING:
            steps.append(["i", right])
        elif right == NOTHING:
            steps.append(["d", left])
        else:
            steps.append(["s", left, right])
    return steps


def worst_first(clips: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return clips with the most errors first; with two recognizers, those on which they differ most."""

    def key(clip: dict[str, Any]) -> tuple[float, ...]:
        errors = [system["errors"] for system in clip["systems"]]
        return (-abs(errors[0] - errors[-1]), -sum(errors), -sum(errors) / max(clip["words"], 1))

    return sorted(clips, key=key)


def read_sounds(clips: Sequence[dict[str, Any]], read: Read) -> dict[int, str]:
    """Return the audio of the worst clips, as much as the page has room for, by clip number: base64 of MP3."""
    sounds: dict[int, str] = {}
    seconds = 0.0
    for clip in worst_first(clips):
        try:
            waveform = read(clip["number"])
        except AudioError:
            continue  # the notes of the clip say why
        seconds += len(waveform) / SAMPLE_RATE
        if seconds > AUDIO_SECONDS:
            break
        sounds[clip["number"]] = base64.b64encode(to_mp3(waveform)).decode()
    return sounds


def to_mp3(waveform: np.ndarray) -> bytes:
    """Return samples (S,), 16 kHz, as MP3, which every browser plays."""
    buffer = io.BytesIO()
    peak = float(np.abs(waveform).max(initial=0.0))
    scaled = waveform / peak if peak > 1 else waveform
    soundfile.write(buffer, scaled, SAMPLE_RATE, format="MP3", bitrate_mode="VARIABLE", compression_level=0.8)
    return buffer.getvalue()


def figures(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the tables of error rates, each with its notes."""
    tables = []
    for name, scores in blocks_of(results).items():
        headings, rows = table_of(results, scores)
        tables.append(
            {
                "title": name,
                "head": ["", *headings],
                "rows": rows,
                "numbers": [False, *[True] * len(headings)],
                "notes": notes(name, results, scores),
            }
        )
    return tables


def parts(shown: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the error rates by length and by speaker."""
    durations = [by_duration(result.transcripts, result.total) for result in shown]
    speakers = [by_speaker(result.transcripts, result.total) for result in shown]
    blocks = []
    if len(durations[0]) > 1:
        blocks.append(part_table("By length", shown, durations))
    if len(speakers[0]) > 1:
        more = f", the worst {SPEAKERS} of {len(speakers[0])}" if len(speakers[0]) > SPEAKERS else ""
        blocks.append(part_table(f"By speaker{more}", shown, speakers))
    return blocks


def part_table(title: str, shown: Sequence[Result], lists: Sequence[Sequence[Part]]) -> dict[str, Any]:
    """Return a table of parts, with a column and a bar for each recognizer, in the order of the first."""
    others = [{part.name: part for part in found} for found in lists]
    widest = max(part.rate for found in lists for part in found) or 1.0
    rows = []
    for part in lists[0][:SPEAKERS]:
        rates = [found[part.name].rate for found in others]
        shares = [(rate, 100 * min(rate / widest, 1)) for rate in rates]
        rows.append({"name": part.name, "clips": part.clips, "words": part.words, "rates": shares})
    names = [result.name for result in shown]
    return {"title": title, "systems": names, "rule": shown[0].total.rule.name, "rows": rows}
