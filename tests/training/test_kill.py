"""Killed at moments nobody chose, again and again, the run ends as if it had not been. Minutes: marked slow."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from runs import metrics, run_ta, settings, steps_logged
from tiny_audio.training.checkpoint import CheckpointFolder, load_checkpoint

KILLS = 20
STEPS = 60


def command(run_settings: list[str], processes: int) -> list[str]:
    """The same global steps with one process that accumulates two batches, and with two of one."""
    accumulation = f"training.gradient_accumulation_steps={2 // processes}"
    own = [f"training.max_steps={STEPS}", "training.eval_steps=20", "training.save_steps=1", "data.num_workers=1"]
    arguments = settings(run_settings, *own, accumulation)
    program = ["-m", "tiny_audio.cli.__main__"]
    if processes > 1:
        program = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone", *program]
    return [sys.executable, *program, *arguments]


def start(arguments: list[str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(arguments, cwd=folder, stdout=log, stderr=log, start_new_session=True)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to every process of the run, workers in groups of their own included."""
    family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_twenty_kills_change_nothing(run_settings, tmp_path, processes):
    """A checkpoint at every step, so that many of the kills meet one being written."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    assert start(command(run_settings, processes), whole).wait(timeout=600) == 0, (whole / "log.txt").read_text()

    rng = random.Random(0)
    folder = CheckpointFolder(killed / "outputs/transcription/checkpoints")
    kills, reached = 0, []
    while kills < KILLS:
        process = start(command(run_settings, processes), killed)
        before = steps_logged(killed)
        deadline = time.monotonic() + 120
        while process.poll() is None and steps_logged(killed) <= before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.4))
        if process.poll() is not None:
            break  # it came to its end between two looks
        kill(process)
        kills += 1
        for step in folder.steps():
            load_checkpoint(folder.file(step))  # every one of them is whole
        reached.append(folder.steps()[-1] if folder.steps() else 0)
        assert reached == sorted(reached), "nothing that was saved is lost"
    assert kills >= 10
    status = start(command(run_settings, processes), killed).wait(timeout=600)
    assert status == 0, (killed / "log.txt").read_text()

    assert metrics(killed) == metrics(whole)
    ours, theirs = (load_checkpoint(path / "outputs/transcription/checkpoints/final.pt") for path in (killed, whole))
    for part, weights in theirs["weights"].items():
        for name, weight in weights.items():
            assert torch.equal(ours["weights"][part][name], weight), name


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_within_a_minute_and_says_which(run_settings, tmp_path):
    process = start([*command(run_settings, 2), "training.max_steps=5000"], tmp_path)
    deadline = time.monotonic() + 120
    while steps_logged(tmp_path) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, (tmp_path / "log.txt").read_text()
    ranks = psutil.Process(process.pid).children()
    victim = next(rank for rank in ranks if rank.environ().get("RANK") == "1")
    victim.kill()
    assert process.wait(timeout=60) != 0
    log = (tmp_path / "log.txt").read_text()
    assert f"exitcode  : -9 (pid: {victim.pid})" in log
    status, log = run_ta(
        [*settings(run_settings), "training.max_steps=1", "training.gradient_accumulation_steps=2"], tmp_path
    )
    assert status == 0, log
