"""The clips of an evaluation set: a fingerprint of the set, and a list of its clips beside a run's figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..data.sources import Source
from ..files import write_whole


def evaluation_fingerprint(sources: Sequence[Source]) -> str:
    """Return a hash of an evaluation set (clips, references and contexts), or an empty text without any source.

    Figures of two sets with the same hash can be compared. It does not depend on the clips' order or folder.
    """
    if not sources:
        return ""
    lines = sorted(json.dumps(row) for source in sources for row in _clips_of(source))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _clips_of(source: Source) -> Iterable[Sequence[str]]:
    """Name and reference of each clip, and its context in a set with contexts."""
    columns = (source.names, source.texts, source.contexts)
    return zip(*(column for column in columns if column is not None), strict=True)


def write_evaluation_clips(sources: Sequence[Source], folder: Path) -> None:
    """Write the clips of an evaluation set into `evaluation_clips_<fingerprint>.jsonl`, if it holds any.

    Each line is a clip: its corpus, its name, and the reference that its transcripts are scored against.
    """
    if not sources:
        return
    path = folder / f"evaluation_clips_{evaluation_fingerprint(sources)}.jsonl"
    if not path.is_file():
        rows = (
            {"corpus": source.name, "name": name, "reference": text}
            for source in sources
            for name, text in zip(source.names, source.texts, strict=True)
        )
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_whole(path, lines.encode("utf-8", "backslashreplace"))
