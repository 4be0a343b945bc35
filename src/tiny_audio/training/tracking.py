"""Where figures go: `metrics.jsonl` and `transcripts.jsonl` always, and the trackers that are asked for."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..config import Config
from ..files import write_whole
from .trackers import TRANSCRIPT_COLUMNS, TensorBoard, Tracker, Trackio, Transcript, WandbRun, check_installed

logger = logging.getLogger(__name__)


class JsonLines:
    """A file of one object a line, in order of steps.

    Args:
        path: the file.
        step: the step that the run goes on from; lines of later steps, which a killed run had written, are dropped,
            so that every step stands in the file once. None: it starts afresh, and so does the file.
    """

    def __init__(self, path: Path, step: int | None) -> None:
        self.path = path
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        lines = text.split("\n")  # not splitlines: a transcript may hold other separators of lines
        kept = "".join(
            f"{line}\n" for line in lines if (at := _step_of(line)) is not None and step is not None and at <= step
        )
        if kept != text:
            write_whole(path, kept.encode())
        self._file = path.open("a", buffering=1, encoding="utf-8")
        self._lost = False

    def write(self, rows: Iterable[Mapping[str, Any]], step: int) -> None:
        """Append lines of a step. A full disk costs lines, which is said once."""
        try:
            for row in rows:
                self._file.write(json.dumps({"step": step, **row}, ensure_ascii=False) + "\n")
        except OSError as error:
            if not self._lost:
                logger.error("%s cannot be written (%s); training goes on.", self.path, error.strerror or error)
            self._lost = True

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # said already
            self._file.close()


def _step_of(line: str) -> int | None:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # the line that was being written when the process was killed
        return None


class LocalFiles:
    """`metrics.jsonl` and `transcripts.jsonl` in the output folder."""

    def __init__(self, folder: Path, step: int | None) -> None:
        self._metrics = JsonLines(folder / "metrics.jsonl", step)
        self._transcripts = JsonLines(folder / "transcripts.jsonl", step)

    def log(self, values: dict[str, float], step: int) -> None:
        """See `Tracker`; what is not finite is null."""
        plain = {key: value if math.isfinite(value) else None for key, value in values.items()}
        self._metrics.write([{"time": round(time.time(), 3), **plain}], step)

    def log_transcripts(self, rows: Sequence[Transcript], step: int) -> None:
        """See `Tracker`; a line each."""
        self._transcripts.write((dict(zip(TRANSCRIPT_COLUMNS, row, strict=True)) for row in rows), step)

    def close(self) -> None:
        """See `Tracker`."""
        self._metrics.close()
        self._transcripts.close()


class Trackers:
    """All places that figures go to; on other processes than the first, none.

    Args:
        config: the run's settings.
        folder: its output folder.
        step: the step that it goes on from, those of the warm-up below 0; None where it starts afresh.
        run_id: the W&B run that it goes on in.
        is_main: whether this is the first process.
    """

    def __init__(self, config: Config, folder: Path, step: int | None, run_id: str | None, is_main: bool) -> None:
        names = config.logging.trackers
        check_installed(names)
        self._trackers: list[Tracker] = []
        self._num_transcripts = config.logging.log_transcripts
        self.run_id = run_id
        if not is_main:
            return
        self._trackers.append(LocalFiles(folder, step))
        if "wandb" in names:
            wandb_run = WandbRun(config, folder, run_id)
            self.run_id = wandb_run.run_id
            self._trackers.append(wandb_run)
        if "tensorboard" in names:
            self._trackers.append(TensorBoard(config, folder, step))
        if "trackio" in names:
            self._trackers.append(Trackio(config, folder, step))

    def log(self, values: dict[str, float], step: int) -> None:
        """Log metrics by their names: those of `metrics.py`, and the user's own."""
        self._all(lambda tracker: tracker.log(values, step))

    def log_transcripts(self, transcripts: Sequence[Transcript], step: int) -> None:
        """Log `logging.log_transcripts` of an evaluation's transcripts, of the same clips every time.

        They come in order of length, and are taken evenly from all of it.
        """
        count = min(self._num_transcripts, len(transcripts))
        rows = [transcripts[i * len(transcripts) // count] for i in range(count)]
        if rows:
            self._all(lambda tracker: tracker.log_transcripts(rows, step))

    def close(self) -> None:
        """Close all."""
        self._all(lambda tracker: tracker.close())

    def _all(self, act: Callable[[Tracker], None]) -> None:
        """Do something with each. One that fails is left out from then on: a server's fault must not cost the run."""
        for tracker in list(self._trackers):
            try:
                act(tracker)
            except Exception as error:
                if isinstance(tracker, LocalFiles):
                    raise
                self._trackers.remove(tracker)
                name, reason = type(tracker).__name__, str(error).partition("\n")[0] or type(error).__name__
                logger.error("%s failed (%s); training goes on without it, metrics.jsonl holds all.", name, reason)
