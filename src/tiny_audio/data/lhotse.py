"""Manifests of lhotse (arXiv 2110.12561): cuts, or recordings with supervisions. Read by lhotse itself, an extra."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .strings import Labels
from .tables import SegmentRecordings, Table, compact


def is_lhotse(path: Path) -> bool:
    """Whether a file holds lhotse's cuts or supervisions, by its first line."""
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        return False
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            row = json.loads(file.readline())
    except (OSError, EOFError, ValueError):  # told where it is read
        return False
    return isinstance(row, dict) and ({"id", "start", "supervisions"} <= set(row) or {"id", "recording_id"} <= set(row))


def open_lhotse(path: Path) -> Table:
    """Read cuts, or supervisions beside their recordings (`*supervisions*` and `*recordings*` of one name).

    A cut is a clip; its transcript is what its supervisions say, in their order. Relative paths of recordings start
    from where the command is typed, as in lhotse.

    Raises:
        UserError: lhotse is not installed, the manifest cannot be read, or it holds what is no plain part of a file.
    """
    try:
        import lhotse
    except ModuleNotFoundError:
        raise UserError(
            f"data.datasets: {path} is a manifest of lhotse; install it with pip install 'tiny-audio[lhotse]'."
        ) from None
    try:
        cuts = list(_cuts(lhotse, path))
    except (AssertionError, KeyError, OSError, TypeError, ValueError) as error:
        raise UserError(f"data.datasets: {path} cannot be read by lhotse ({error}).") from None
    stat = path.stat()
    durations = np.array([cut.duration for cut in cuts], dtype=np.float32)
    speakers = [next((one.speaker for one in cut.supervisions if one.speaker), "") for cut in cuts]
    return Table(
        origin=str(path),
        names=compact(cut.id for cut in cuts),
        texts=[" ".join(one.text for one in cut.supervisions if one.text) for cut in cuts],
        durations=durations,
        recordings=SegmentRecordings(
            Path(), Labels(_file(cut, path) for cut in cuts), np.array([cut.start for cut in cuts]), durations
        ),
        version=f"{path.absolute()} {stat.st_mtime_ns} {stat.st_size}",
        speakers=Labels(speakers) if any(speakers) else None,
    )


def _cuts(lhotse: Any, path: Path) -> Iterable[Any]:
    if "supervisions" not in path.name:
        return lhotse.CutSet.from_file(path)
    recordings = path.with_name(path.name.replace("supervisions", "recordings"))
    if not recordings.is_file():
        raise UserError(f"data.datasets: {path} needs its recordings beside it, {recordings.name}.")
    cuts = lhotse.CutSet.from_manifests(
        recordings=lhotse.RecordingSet.from_file(recordings), supervisions=lhotse.SupervisionSet.from_file(path)
    )
    return cuts.trim_to_supervisions(keep_overlapping=False)


def _file(cut: Any, path: Path) -> str:
    """The file that a cut is a part of."""
    recording: Any = getattr(cut, "recording", None)
    plain = recording is not None and len(recording.sources) == 1 and recording.sources[0].type == "file"
    if not plain or recording.transforms:
        raise UserError(
            f"data.datasets: {path}: the cut {cut.id} is no plain part of an audio file; "
            "export the cuts with lhotse first (CutSet.save_audios)."
        )
    return str(recording.sources[0].source)
