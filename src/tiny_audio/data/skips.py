"""Clips that cannot be used: each is named on the console, counted by source and reason, and written to a file."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from ..errors import UserError, printable
from ..files import write_whole
from .index import Skip
from .sources import Source

logger = logging.getLogger(__name__)

#: Draws before the share of skipped ones is checked; fewer if there are fewer clips.
MIN_DRAWS = 50

#: Skips that the console names one by one; a corpus that was moved would otherwise fill it.
MAX_TOLD = 5


class SkipLog:
    """The skips of a run, kept in `skipped.jsonl` (one line per clip, each clip once, also after a resume).

    Args:
        path: the file; lines of an earlier part of the run are kept and counted.
        sources: those of the plan, in its order, then any others; clips that were left out when they were
            indexed are written at once.
        max_skipped_share: `data.max_skipped_share`, of the draws made since this log was opened.
        write: whether this process writes the file: only one of several processes does.
    """

    def __init__(self, path: Path, sources: Sequence[Source], max_skipped_share: float, *, write: bool = True) -> None:
        self.path = path
        self.write = write
        self.max_skipped_share = max_skipped_share
        self.names = [source.name for source in sources]
        self.sizes: dict[str, int] = {}
        for source in sources:
            self.sizes.setdefault(source.name, len(source))  # evaluation may repeat names, after training
        self.counts: Counter[tuple[str, str]] = Counter()  # clips by (source, reason)
        self._known: set[tuple[str, str]] = set()
        self._draws: Counter[str] = Counter()
        self._skipped_draws: Counter[tuple[str, str]] = Counter()
        for skip in self._read():
            self._remember(skip)
        self._write(skip for source in sources for skip in source.skipped)
        self._named = 0

    def add(self, skipped: Iterable[Skip], sources: Iterable[int]) -> None:
        """Add a batch, or the batches of all processes: `batch.skipped` and `batch.sources`."""
        skipped = list(skipped)
        self._draws.update(self.names[index] for index in sources)
        self._draws.update(skip.source for skip in skipped)
        self._skipped_draws.update((skip.source, skip.reason) for skip in skipped)
        self.note(skipped)

    def check(self) -> None:
        """Stop a run that skips too many draws.

        Raises:
            UserError: more than `max_skipped_share` of the draws were skipped, or every draw of a source was;
                checked from 50 draws on, or once there were as many draws as clips.
        """
        skipped_by_source: Counter[str] = Counter()
        for (name, _), count in self._skipped_draws.items():
            skipped_by_source[name] += count
        for name, count in skipped_by_source.items():
            if count == self._draws[name] >= min(MIN_DRAWS, self.sizes[name]):
                raise UserError(
                    f"data: none of the {count:,} clips drawn from {name} could be used "
                    f"({self._reasons(name)}); see {self.path}."
                )
        draws, skipped = self._draws.total(), skipped_by_source.total()
        if draws >= min(MIN_DRAWS, sum(self.sizes.values())) and skipped > self.max_skipped_share * draws:
            raise UserError(
                f"data: {skipped:,} of {draws:,} drawn clips had to be skipped ({self._reasons()}), more "
                f"than data.max_skipped_share={self.max_skipped_share:g} allows; see {self.path}."
            )

    def summary(self) -> str:
        """One line, such as `3 clips skipped: librispeech 2 too_long, 1 silent`; empty if there are none."""
        if not self.counts:
            return ""
        by_source = [
            f"{name} " + ", ".join(f"{self.counts[key]:,} {key[1]}" for key in sorted(self.counts) if key[0] == name)
            for name in sorted({name for name, _ in self.counts})
        ]
        total = self.counts.total()
        return f"{total:,} clip{'s' if total > 1 else ''} skipped: " + "; ".join(by_source)

    def _reasons(self, name: str | None = None) -> str:
        """The reasons of the skipped draws, the most frequent first."""
        reasons: Counter[str] = Counter()
        for (source, reason), count in self._skipped_draws.items():
            if name in (None, source):
                reasons[reason] += count
        return ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())

    def _read(self) -> list[Skip]:
        """The content of the file; a last line that a crash cut short is dropped, since its clip is read again."""
        if not self.path.is_file():
            return []
        lines = self.path.read_text(encoding="utf-8").split("\n")
        if lines[-1] and self.write:
            write_whole(self.path, "".join(line + "\n" for line in lines[:-1]).encode())
        return [Skip(**json.loads(line)) for line in lines[:-1]]

    def note(self, skipped: Iterable[Skip]) -> None:
        """Count and write clips that were not draws: those of an evaluation, or left out when indexing."""
        for skip in self._write(skipped):
            self._named += 1
            if self._named <= MAX_TOLD:
                name, detail = printable(skip.name), printable(skip.detail)
                logger.warning("Skipped %s of %s (%s): %s", name, skip.source, skip.reason, detail)
            if self._named == MAX_TOLD:
                logger.warning("Further skipped clips are only written to %s.", self.path)

    def _write(self, skipped: Iterable[Skip]) -> list[Skip]:
        """Count and write the clips that are skipped for the first time, and return them."""
        new = [skip for skip in skipped if self._remember(skip)]
        if new and self.write:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                    file.writelines(json.dumps(asdict(skip), ensure_ascii=False) + "\n" for skip in new)
            except OSError as error:  # a full disk: they are still counted and reported
                logger.error("%s cannot be written (%s).", self.path, error.strerror or error)
        return new

    def _remember(self, skip: Skip) -> bool:
        """Count a clip the first time it is skipped; return whether it is the first."""
        key = (skip.source, skip.name)
        if key in self._known:
            return False
        self._known.add(key)
        self.counts[skip.source, skip.reason] += 1
        return True
