"""Folders with a transcript beside each recording: text, JSON (webdataset), label tracks of Audacity, subtitles."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..decoding import AUDIO_SUFFIXES
from .files import Files, file_versions
from .strings import Labels
from .tables import LAYOUT, SPEAKER_COLUMNS, TEXT_COLUMNS, Columns, Table, make_table
from .textfiles import MAX_LINE, open_text
from .times import parse_time, to_seconds

logger = logging.getLogger(__name__)

_LABEL = re.compile(r"(\d+[.,]\d+)\t(\d+[.,]\d+)(?:\t(.*))?")
_CUE = re.compile(r"((?:\d+:)?\d+:\d+[.,]\d+)\s+-->\s+((?:\d+:)?\d+:\d+[.,]\d+).*")


class Clip(NamedTuple):
    """A transcript from a file beside a recording, and its part of the recording; or what is wrong."""

    text: str | None
    start: float | None = None
    seconds: float = np.nan
    speaker: str = ""
    fault: str | None = None


def _of_text(content: str) -> Iterator[Clip]:
    """A transcript; or a label track, if every line of it has two times."""
    lines = [line for line in content.splitlines() if line.strip() and not line.startswith("\\")]  # \: frequencies
    labels = [_LABEL.fullmatch(line) for line in lines]
    if not lines or not all(labels):
        yield Clip(content)
    for label in filter(None, labels) if all(labels) else ():
        start, end = parse_time(label[1]), parse_time(label[2])
        yield Clip(label[3], start, end - start)


def _of_subtitles(content: str) -> Iterator[Clip]:
    """The cues of SRT and WebVTT: a line with times, and the lines after it up to an empty one."""
    for block in re.split(r"\n\s*\n", content.replace("\r\n", "\n").replace("\r", "\n")):
        lines = block.strip().split("\n")
        for number, line in enumerate(lines):
            if cue := _CUE.fullmatch(line.strip()):
                start, end = parse_time(cue[1]), parse_time(cue[2])
                yield Clip(" ".join(lines[number + 1 :]), start, end - start)
                break


def _of_json(content: str) -> Iterator[Clip]:
    """The text under a usual name, in the JSON that webdataset keeps beside each recording."""
    row: Any = json.loads(content)
    row = row if isinstance(row, dict) else {}
    text = next((row[name] for name in TEXT_COLUMNS if isinstance(row.get(name), str)), None)
    speaker = next((str(row[name]) for name in SPEAKER_COLUMNS if row.get(name)), "")
    yield Clip(text, None, to_seconds(row.get("duration")), speaker, None if text else "its JSON holds no transcript")


#: Endings of a transcript's name, after the name of the recording; if there are several, the first counts.
READERS: dict[str, Callable[[str], Iterator[Clip]]] = {
    ".normalized.txt": _of_text,  # LibriTTS
    ".txt": _of_text,
    ".lab": _of_text,
    ".srt": _of_subtitles,
    ".vtt": _of_subtitles,
    ".json": _of_json,
}
UNREAD = (".textgrid", ".eaf", ".trs", ".stm", ".ctm")


def open_sidecars(path: Path, split: str | None, columns: Columns) -> Table | None:
    """Read the recordings of a folder and its subfolders, if any has a transcript beside it; otherwise return None.

    With a split, read the folder of that name. A recording without a transcript is listed without one.

    Raises:
        UserError: a transcript cannot be read, or is not text.
    """
    root = path if split is None or path.name == split else path / split
    found = _find(root)
    transcripts = [file for _, file in found if file is not None]
    if not transcripts:
        return None
    clips = [(audio, clip) for audio, file in found for clip in _read(root, file)]
    if len(transcripts) < len(found):
        missing, every = f"{len(found) - len(transcripts):,}", f"{len(found):,}"
        logger.warning("%s: %s of %s recordings have no transcript beside them.", root, missing, every)
    starts = None
    if any(clip.start is not None for _, clip in clips):
        starts = np.array([clip.start or 0.0 for _, clip in clips])
    files = [root / name for pair in found for name in pair if name]
    digest = hashlib.sha256("\n".join(file_versions(files)).encode("utf-8", "surrogateescape")).hexdigest()
    speakers = [clip.speaker for _, clip in clips]
    return make_table(
        root,
        f"{LAYOUT} {root.absolute()} {digest}",
        Files(root),
        [audio for audio, _ in clips],
        [clip.text for _, clip in clips],
        starts,
        np.array([clip.seconds for _, clip in clips], dtype=np.float32),
        speakers=Labels(speakers) if any(speakers) else None,
        faults={row: clip.fault for row, (_, clip) in enumerate(clips) if clip.fault},
    )


def _find(root: Path) -> list[tuple[str, str | None]]:
    """The recordings below a folder, in the same order on every machine, each with the transcript beside it."""
    found: list[tuple[str, str | None]] = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        plain = {name.casefold(): name for name in names if not name.startswith(".")}  # ._x.wav: macOS' own
        for name in sorted(plain.values()):
            path = (Path(folder) / name).relative_to(root)
            if path.suffix.lower() in AUDIO_SUFFIXES:
                beside = next((plain[key] for end in READERS if (key := (path.stem + end).casefold()) in plain), None)
                found.append((str(path), beside and str(path.with_name(beside))))
    return sorted(found)


def _read(root: Path, name: str | None) -> Iterator[Clip]:
    """The clips in the transcript beside a recording."""
    if name is None:
        yield Clip(None)
        return
    with open_text(root / name) as file:
        content = file.read(MAX_LINE)
    reader = next(READERS[end] for end in READERS if name.casefold().endswith(end))
    try:
        yield from list(reader(content)) or [Clip(None)]
    except (ValueError, RecursionError) as error:
        yield Clip(None, fault=f"{name} cannot be read ({type(error).__name__})")
