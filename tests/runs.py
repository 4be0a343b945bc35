"""Runs on the tiny models that are stopped, killed and compared: their settings, and the figures they leave."""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from tiny_audio.cli import main

MAX_STEPS = 24
CTC_STEPS = 12  # of the warm-up before them


def settings(run_settings: list[str], *more: str) -> list[str]:
    with_contexts = [
        setting.replace("/train.jsonl}", "/train.jsonl, context_column: text}") for setting in run_settings
    ]
    assert with_contexts != run_settings
    return [
        "train",
        *with_contexts,
        "data.context_dropout=0.5",
        "model.projector_type=moe",  # its routing, balance loss and usage counts must be made again too
        "model.projector_config.expert_dim=32",
        "model.projector_config.dropout=0.1",
        "model.audio_token_dropout=0.1",
        "data.augmentation=light",
        "training.gradient_accumulation_steps=2",
        f"training.max_steps={MAX_STEPS}",
        f"training.ctc_warmup_steps={CTC_STEPS}",
        "training.ctc_loss_weight=0.3",
        "training.ctc_min_count=3",
        "training.save_steps=4",
        "training.eval_steps=6",
        "training.save_total_limit=3",
        *more,
    ]


def metrics(folder: Path) -> dict[tuple[int, str], float]:
    """All figures of a run but times and machine load; each step must stand in the file once."""
    found: dict[tuple[int, str], float] = {}
    for line in (folder / "outputs/transcription/metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        kept = (
            "train/loss",
            "train/auxiliary",
            "train/expert",
            "train/grad",
            "train/learning_rate",
            "train/epoch",
            "eval/",
            "ctc_warmup/",
        )
        for key in row:
            if key.startswith(kept):
                assert (row["step"], key) not in found, "a step was logged twice"
                found[row["step"], key] = row[key]
    return found


def steps_logged(folder: Path) -> int:
    path = folder / "outputs/transcription/metrics.jsonl"
    return path.read_text().count('"train/loss"') if path.is_file() else 0


# Starting Python and importing torch takes ten seconds of a core. A server that has done so forks a process in a
# moment: a real one, which can be killed, signaled and limited, and knows nothing of the tests' process.
FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["tiny_audio.training.run", "tiny_audio.cli.train", "hydra", "runs"])


class Started:
    """A process, with what the tests use of `subprocess.Popen`."""

    def __init__(self, target: Callable[..., Any], *arguments: Any) -> None:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `ta` sets it before torch is imported
        self._process = FRESH.Process(target=target, args=arguments)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def become_ta(arguments: list[str], folder: Path, environment: dict[str, str], change: Callable[[], None]) -> NoReturn:
    """Run `ta` in this process, which a test started, in a process group of its own; its output goes to `log.txt`."""
    gc.freeze()  # as in the tests' own process
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.argv = ["ta", *(argument.replace("RANK", environment.get("RANK", "RANK")) for argument in arguments)]
    try:
        change()
        raise SystemExit(main())
    finally:
        atexit._run_exitfuncs()  # which a forked process leaves out


def nothing() -> None:
    """The change of a process in which nothing is changed."""


def start_ta(arguments: list[str], folder: Path, change: Callable[[], None] = nothing, **environment: str) -> Started:
    """Start `ta` in a process of its own; what it prints is added to `log.txt`.

    Args:
        arguments: of `ta`.
        folder: where it is typed.
        change: a function of a module that the process calls first.
        environment: what is different in its environment; what is read on import has been read already.
    """
    return Started(become_ta, arguments, folder, environment, change)


def run_ta(arguments: list[str], folder: Path) -> tuple[int, str]:
    """Run `ta` in this process as if it were typed in this folder; return the exit status and what it printed."""
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = main(arguments)
    return status, printed.getvalue()


def run_apart(arguments: list[str], folder: Path, change: Callable[[], None] = nothing) -> tuple[int, str]:
    """Run `ta` in a process of its own to its end: where signals, workers or the environment are in question."""
    (folder / "log.txt").unlink(missing_ok=True)
    return start_ta(arguments, folder, change).wait(timeout=300), (folder / "log.txt").read_text()


def start_together(
    arguments: list[str], folder: Path, change: Callable[[], None] = nothing, count: int = 2
) -> list[Started]:
    """Start the processes of one run, as torchrun does. `RANK` in an argument is the number of the process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    own = [common | {"MASTER_PORT": str(port), "RANK": str(i), "LOCAL_RANK": str(i)} for i in range(count)]
    return [start_ta(arguments, folder, change, **environment) for environment in own]


def run_together(
    arguments: list[str], folder: Path, change: Callable[[], None] = nothing, count: int = 2
) -> tuple[list[int], str]:
    """Run the processes of one run to their ends; return their exit statuses and what they printed."""
    folder.mkdir(exist_ok=True)
    (folder / "log.txt").unlink(missing_ok=True)
    processes = start_together(arguments, folder, change, count)
    try:
        return [process.wait(timeout=200) for process in processes], (folder / "log.txt").read_text()
    finally:
        for process in processes:
            process.kill()


def watch_steps(is_bad: Callable[[int], bool], put: Callable[[Any, str, Any], None] = setattr) -> list[bool]:
    """Make the loss of some steps not finite, and watch all of them.

    Args:
        is_bad: whether the loss of a step is to be spoilt; steps are counted from 0.
        put: sets an attribute of a class.

    Returns:
        For each step that was made, whether it left weights, moments and the optimizer's own count as they were.
    """
    from tiny_audio.model.speech_llm import SpeechLLM
    from tiny_audio.training.loop import Trainer

    forward, step, same = SpeechLLM.forward, Trainer.train_step, []

    def spoilt(self, batch):
        loss = forward(self, batch)
        return loss._replace(cross_entropy=loss.cross_entropy * (float("nan") if is_bad(len(same)) else 1.0))

    def everything(trainer):
        kept = [value for state in trainer.optimizer.state_dict()["state"].values() for value in state.values()]
        return [held_here(value).detach().clone() for value in (*trainer.weights, *kept)]

    def compared(self, given):
        before = everything(self)
        result = step(self, given)
        after = everything(self)
        same.append(len(before) == len(after) and all(map(torch.equal, before, after)))
        return result

    put(SpeechLLM, "forward", spoilt)
    put(Trainer, "train_step", compared)
    return same


def held_here(weight: torch.Tensor) -> torch.Tensor:
    """What this process holds of a weight, all of it where it is not sharded."""
    return weight.to_local() if hasattr(weight, "to_local") else weight
