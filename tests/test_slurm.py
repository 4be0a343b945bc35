"""Jobs of a multirun by submitit: as Slurm would run them, here with its local executor."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from clips import read_lines
from runs import run_apart, start_ta
from tiny_audio.cli import main

LOCAL = ["hydra/launcher=submitit_local", "hydra.sweep.dir=jobs", "data.eval_datasets=[]"]
HIDDEN = "import sys; sys.modules['hydra_plugins'] = None; from tiny_audio.cli import main; raise SystemExit(main())"


def rows(folder: Path) -> list[dict[str, float]]:
    path = folder / "transcription/metrics.jsonl"
    return read_lines(path) if path.is_file() else []


def job_log(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("jobs/.submitit/*/*_log.err")))


def task_of(process: subprocess.Popen[str], output: str) -> psutil.Process:
    """The process that trains in this folder; above it is one that stands for the scheduler."""
    children = psutil.Process(process.pid).children(recursive=True)
    tasks = [child for child in children if "submitit.core._submit" in child.cmdline()]
    return next(
        task for task in tasks if any(file.path.endswith(f"{output}/transcription/.lock") for file in task.open_files())
    )


def started(run_settings: list[str], folder: Path, *more: str) -> subprocess.Popen[str]:
    """A job that is in the middle of its training."""
    process = start_ta(["train", "-m", *run_settings, *LOCAL, *more], folder)
    deadline = time.monotonic() + 120
    while len(rows(folder / "jobs/0")) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, (folder / "log.txt").read_text() + job_log(folder)
    return process


@pytest.mark.slow
def test_a_mistake_in_one_job_is_one_line_and_stops_no_other(run_settings, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    sweep = ["training.resume_from_checkpoint=nowhere.pt,null", "training.max_steps=2"]
    status, log = run_apart(["train", "-m", *run_settings, *LOCAL, *sweep], tmp_path)
    assert status == 2, log
    assert log.splitlines()[0] == "[INFO] The jobs were submitted; their output is in .submitit/, beside their folders."
    assert log.splitlines()[-1] == "ta train: error: checkpoint nowhere.pt does not exist."
    assert "1 failed, 1 trained; in jobs\n" in log
    assert "Traceback" not in log
    assert not rows(tmp_path / "jobs/0")
    assert [row["step"] for row in rows(tmp_path / "jobs/1")] == [1, 2]


@pytest.mark.slow
def test_a_job_that_is_preempted_saves_and_comes_back_and_the_other_goes_on(run_settings, tmp_path):
    """submitit sends USR2; the step is finished and saved before it gets the signal, and the same job starts again."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    process = started(run_settings, tmp_path, "training.max_steps=150", "training.save_steps=1000", "training.seed=1,2")
    task_of(process, "jobs/0").send_signal(signal.SIGUSR2)
    assert process.wait(timeout=300) == 0, (tmp_path / "log.txt").read_text() + job_log(tmp_path)
    log = job_log(tmp_path)
    saved = int(log.split("[INFO] Saved at step ")[1].split(";")[0])
    assert 3 <= saved < 150
    assert log.count(f"[INFO] Resuming from step {saved}...") == 1
    assert log.count("[INFO] Job 0: ") == 2
    assert log.count("[INFO] Job 1: ") == 1
    assert "Traceback" not in log
    for job in (0, 1):
        assert [row["step"] for row in rows(tmp_path / f"jobs/{job}")] == list(range(1, 151))
        assert (tmp_path / f"jobs/{job}/transcription/checkpoints/final.pt").is_file()
    assert rows(tmp_path / "jobs/0")[0]["train/loss"] != rows(tmp_path / "jobs/1")[0]["train/loss"]


@pytest.mark.slow
def test_a_job_that_is_killed_is_one_line(run_settings, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    process = started(run_settings, tmp_path, "training.max_steps=5000")
    task_of(process, "jobs/0").kill()
    assert process.wait(timeout=100) == 2
    log = (tmp_path / "log.txt").read_text()
    assert "Traceback" not in log
    assert re.fullmatch(
        r"ta train: error: submitit: Job \d+ .*gave no result; its log says why\.", log.splitlines()[-1]
    )


def test_without_the_plugin(tmp_path):
    command = [sys.executable, "-c", HIDDEN, "train", "-m", "hydra/launcher=submitit_slurm", "training.seed=1,2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    message = "hydra/launcher=submitit_slurm needs a plugin: pip install 'tiny-audio[slurm]'"
    assert done.stderr == f"ta train: error: {message}\n"


def test_without_slurm(monkeypatch, tmp_path, capsys):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["train", "-m", "hydra/launcher=submitit_slurm", "training.seed=1,2"]) == 2
    message = "hydra/launcher=submitit_slurm: there is no Slurm here, no srun on the PATH."
    assert capsys.readouterr().err == f"ta train: error: {message}\n"
