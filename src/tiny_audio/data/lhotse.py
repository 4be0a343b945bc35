"""Manifests of lhotse (arXiv 2110.12561): cuts, or recordings with supervisions. The optional lhotse reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, printable
from .contexts import read_contexts
from .files import Files
from .strings import Labels, Strings, shown
from .tables import CONTEXT_COLUMN, Table, make_table

_SUPERVISION = {"id", "recording_id"}
_RECORDING = {"id", "sources", "sampling_rate"}


def is_lhotse(row: dict[str, Any]) -> bool:
    """Whether a row is one of lhotse's: a cut of any kind, a supervision, or a recording."""
    return (
        row.keys() >= {"id", "start", "supervisions"}
        or row.keys() >= _SUPERVISION
        or row.keys() >= _RECORDING
        or str(row.get("type")) in ("MonoCut", "MultiCut", "MixedCut", "PaddingCut")
    )


def open_lhotse(path: Path, first: dict[str, Any], context_column: str | None = None) -> Table:
    """Read cuts, or supervisions beside their recordings (`*supervisions*` and `*recordings*` of one name).

    `first` is the first row, which shows the kind of the others; `context_column` is a custom field.

    A cut is a clip; its transcript joins the texts of its supervisions, in their order. Relative paths of recordings
    start from the current folder, as in lhotse.

    Raises:
        UserError: lhotse is not installed, the manifest cannot be read, or a cut is not a plain part of a file.
    """
    try:
        import lhotse
    except ModuleNotFoundError:
        raise UserError(
            f"data.datasets: {path} is a manifest of lhotse; install it with pip install 'tiny-audio[lhotse]'."
        ) from None
    try:
        cuts = list(_cuts(lhotse, path, first))
    except (AssertionError, AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        raise UserError(f"data.datasets: {path} cannot be read by lhotse ({shown(error, 200)}).") from None
    if not cuts:
        raise UserError(f"data.datasets: {path} has no rows.")
    stat = path.stat()
    speakers = [next((one.speaker for one in cut.supervisions if one.speaker), "") for cut in cuts]
    return make_table(
        path,
        f"{path.absolute()} {stat.st_mtime_ns} {stat.st_size}",
        Files(Path()),
        [_file(cut, path) for cut in cuts],
        [" ".join(one.text for one in cut.supervisions if one.text) for cut in cuts],
        np.array([cut.start for cut in cuts]),
        np.array([cut.duration for cut in cuts], dtype=np.float32),
        names=[printable(cut.id) for cut in cuts],
        speakers=Labels(speakers) if any(speakers) else None,
        contexts=_contexts(cuts, context_column or CONTEXT_COLUMN, path) if context_column != "" else None,
    )


def _contexts(cuts: Sequence[Any], key: str, path: Path) -> Strings:
    """Return the contexts of cuts, from a custom field of each cut or of its supervisions."""
    found = [[one.custom[key] for one in (cut, *cut.supervisions) if one.custom and key in one.custom] for cut in cuts]
    values = [own[0] if own else None for own in found]
    return read_contexts(values, lambda row: f"cut {cuts[row].id}", path)


def _cuts(lhotse: Any, path: Path, first: dict[str, Any]) -> Iterable[Any]:
    if first.keys() >= _RECORDING:
        raise UserError(f"data.datasets: {path} lists recordings without transcripts; give the supervisions, or cuts.")
    if not first.keys() >= _SUPERVISION or "supervisions" in first:
        return lhotse.CutSet.from_file(path)
    recordings = path.with_name(path.name.replace("supervisions", "recordings"))
    if not recordings.is_file() or recordings == path:
        raise UserError(
            f"data.datasets: {path} needs its recordings beside it, {recordings.name}; "
            "the two names may differ only in these words."
        )
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
            f"data.datasets: {path}: the cut {cut.id} is not a plain part of an audio file; "
            "export the cuts with lhotse first (CutSet.save_audios)."
        )
    return str(recording.sources[0].source)
