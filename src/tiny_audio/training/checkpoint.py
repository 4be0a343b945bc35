"""Checkpoints: one file each, written so that an interruption at any moment leaves the last one whole.

`checkpoint-step-N.pt` holds all that a run needs to resume exactly; `final.pt` has only the weights of the last one.
They are read with `weights_only=True`, so a file from an unknown source cannot run code.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
import yaml

from ..config import build_config
from ..errors import UserError
from ..files import write_whole
from ..model.encoder import CONVENTIONS
from .contents import fault

logger = logging.getLogger(__name__)

FORMAT = "tiny-audio-checkpoint"
VERSION = 2
STATE_FILE = "training_state.json"
CONFIG_FILE = "config.yaml"
FINAL_FILE = "final.pt"
OF_THE_RUN = ("optimizer", "scheduler", "scaler", "rng")  # used only to resume a run
# The feature conventions of older versions, and the encoder window that each stands for.
BEFORE = {
    "zero-padded to 1280 samples, attention within the clip": "clip",
    "silence to 30 s, attention over the whole window": "30s",
}
_NAME = re.compile(r"checkpoint-step-(\d+)\.pt")


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint; if that is impossible, raise `OSError` and change nothing."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **content}, buffer)
    write_whole(path, buffer.getbuffer())


def load_checkpoint(path: str | Path, verify: bool = True) -> dict[str, Any]:
    """Read a checkpoint onto the CPU: its tensors are mapped, and read from the disk when they are used.

    Args:
        path: the file.
        verify: read all of it once, to compare it with the checksums in the file.

    Raises:
        UserError: there is no file at `path`, it is damaged, or it is not a checkpoint of this package.
    """
    path = Path(path)
    if not path.is_file():
        kind = "is a folder, not a checkpoint" if path.is_dir() else "does not exist"
        raise UserError(f"checkpoint {path} {kind}.{_suggest(path)}")
    try:
        if verify:
            with ZipFile(path) as archive:  # each tensor is a member of the archive, with a CRC-32
                damaged = archive.testzip()
            if damaged is not None:
                raise BadZipFile(damaged)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # any error that a damaged or foreign file causes
        raise UserError(f"checkpoint {path} is damaged or not a checkpoint.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or type(content.get("version")) is not int:
        raise UserError(f"{path} is not a checkpoint of this toolkit.")
    if (version := content["version"]) != VERSION:
        advice = "update it" if version > VERSION else "use the one that wrote it"
        raise UserError(
            f"checkpoint {path} has format version {version}; this version of the toolkit reads {VERSION}: {advice}."
        )
    if (wrong := fault(content)) is not None:
        raise UserError(f"checkpoint {path} is damaged, or was not written by this toolkit: {wrong}.")
    _complete(content)
    return content


def _complete(saved: dict[str, Any]) -> None:
    """Add `model.encoder_window`, which checkpoints of older versions lack.

    Older versions counted frames up to the next 80 ms. The stack that they counted in addition holds silence, or the
    clip's last 60 ms.
    """
    settings, models = saved["config"]["model"], saved["models"]
    if "encoder_window" not in settings:
        settings["encoder_window"] = BEFORE.get(models["feature_convention"], "clip")
        if models["feature_convention"] in BEFORE:
            models["feature_convention"] = CONVENTIONS[settings["encoder_window"]]


def kind(saved: dict[str, Any]) -> dict[str, Any]:
    """Return what must be equal in two checkpoints so that the weights of one fit the models of the other.

    Models are identified by their weights, so their folders may differ. Where a run started and what it froze do not
    matter. A value is None if a checkpoint of an older version does not have it.
    """
    models, settings = saved["models"], asdict(build_config({"model": saved["config"]["model"]}).model)
    settings["projector_config"] = models.get("projector_config") or settings["projector_config"]
    chosen = ("encoder_fingerprint", "decoder_fingerprint", "feature_convention", "prompt")
    shaped = ("projector_type", "projector_config", "use_lora", "lora_config", "freeze_decoder")
    found = {key: models[key] for key in chosen} | {key: settings[key] for key in shaped}
    return found | {"prompt_ids": models.get("prompt_ids")}


def find_checkpoints(path: str | Path) -> CheckpointFolder:
    """Return the folder of checkpoints, given a run's folder or the folder of checkpoints itself.

    Raises:
        UserError: the folder does not exist, or holds no checkpoint.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"there is no folder {path}.")
    for folder in (CheckpointFolder(path), CheckpointFolder(path / "checkpoints")):
        if folder.files():
            return folder
    near = sorted({str(file.parent) for file in path.glob("*/checkpoints/*.pt")})
    hint = f" There are some in {', '.join(near)}." if near else ""
    raise UserError(f"there are no checkpoints in {path}.{hint}")


def _suggest(path: Path) -> str:
    for folder in (path, path / "checkpoints", path.parent):
        if steps := CheckpointFolder(folder).steps():
            return f" There is {CheckpointFolder(folder).file(steps[-1])}."
    return ""


class CheckpointFolder:
    """The checkpoints of a run, and which of them are kept."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, step: int) -> Path:
        """Path of the checkpoint of a step."""
        return self.path / f"checkpoint-step-{step}.pt"

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, in order."""
        if not self.path.is_dir():
            return []
        names = (_NAME.fullmatch(entry.name) for entry in self.path.iterdir())
        return sorted(int(match[1]) for match in names if match)

    def files(self) -> list[Path]:
        """All checkpoints: those of steps in order, then others; `final.pt` unless it is a copy of one of them."""
        steps = [self.file(step) for step in self.steps()]
        others = sorted(set(self.path.glob("*.pt")) - set(steps)) if self.path.is_dir() else []
        return steps + [file for file in others if file.name != FINAL_FILE or not self._is_copy(file)]

    def _is_copy(self, final: Path) -> bool:
        """Whether `final.pt` has the weights of the checkpoint of its step; False if a file cannot be read."""
        try:
            saved = load_checkpoint(final)
            step = self.file(saved["state"]["step"])
            theirs = load_checkpoint(step, verify=False)["weights"] if step.is_file() else {}
        except UserError:
            return False
        ours = saved["weights"]
        return ours.keys() == theirs.keys() and all(
            own.keys() == theirs[part].keys() and all(torch.equal(own[name], theirs[part][name]) for name in own)
            for part, own in ours.items()
        )

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest checkpoint that can be read; warn of newer ones that cannot.

        Raises:
            UserError: there are checkpoints, but none can be read; a new run would overwrite them.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.file(step), load_checkpoint(self.file(step))
            except UserError as error:
                logger.warning("%s", error)
        if steps:
            raise UserError(f"none of the checkpoints in {self.path} can be read; move them away to start a new run.")
        return None

    def prune(self, keep: int | None, newest: int, best: int | None) -> None:
        """Keep the last `keep` checkpoints (None: all), the `newest` step and the `best`; delete the others."""
        steps = self.steps()
        for step in steps[:-keep] if keep else []:
            if step not in (best, newest):
                self.file(step).unlink(missing_ok=True)

    def write(self, step: int, content: dict[str, Any], best: Callable[[], int | None]) -> None:
        """Write the checkpoint of a step; if the disk is full, delete older ones, but never the newest nor the best.

        Args:
            step: of the checkpoint.
            content: what it holds.
            best: returns the step of the best checkpoint that exists.

        Raises:
            OSError: it cannot be written.
        """
        while True:
            try:
                return save_checkpoint(self.file(step), content)
            except OSError as error:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                deleted = self.make_room(best()) if full else None
                if deleted is None:
                    raise
                logger.warning("The disk is full: %s was deleted to make room.", deleted)

    def make_room(self, best: int | None) -> Path | None:
        """Delete the oldest checkpoint except the newest and the best, and return it; None if there is none."""
        for step in self.steps()[:-1]:
            if step != best:
                self.file(step).unlink()
                return self.file(step)
        return None

    def set_aside(self, after: int) -> None:
        """Move checkpoints of later steps into their own folder: the run continues differently from step `after`."""
        later = [step for step in self.steps() if step > after]
        aside = self.path / "set-aside"
        for step in later:
            aside.mkdir(exist_ok=True)
            self.file(step).replace(aside / self.file(step).name)
        if later:
            logger.warning("%d later checkpoints were moved to %s.", len(later), aside)

    def finish(self, step: int) -> Path:
        """Write the checkpoint of the last step as `final.pt`, without what is only used to resume a run.

        Raises:
            OSError: such as a full disk.
        """
        final = self.path / FINAL_FILE
        save_checkpoint(final, load_checkpoint(self.file(step), verify=False) | dict.fromkeys(OF_THE_RUN))
        return final

    def write_state(self, state: dict[str, Any]) -> None:
        """Write `training_state.json`, a readable index of the folder."""
        write_whole(self.path / STATE_FILE, (json.dumps(state, indent=2) + "\n").encode())

    def write_config(self, settings: dict[str, Any]) -> None:
        """Write `config.yaml`; a full disk does not end the run, since every checkpoint holds the same settings."""
        try:
            write_whole(self.path / CONFIG_FILE, yaml.safe_dump(settings, sort_keys=False).encode())
        except OSError as error:
            logger.error("%s cannot be written (%s).", self.path / CONFIG_FILE, error.strerror or error)

    def drop_final(self) -> None:
        """Delete the `final.pt` of an earlier, shorter run, once there is a newer checkpoint."""
        (self.path / FINAL_FILE).unlink(missing_ok=True)
