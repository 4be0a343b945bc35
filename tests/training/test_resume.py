"""A run that was killed goes on exactly as if it had not been: real processes, real signals, equal numbers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from runs import MAX_STEPS, metrics, run_ta, run_together, settings, start_ta, steps_logged
from tiny_audio.cli import main
from tiny_audio.training.checkpoint import CheckpointFolder, load_checkpoint
from tiny_audio.training.loop import Trainer


def run_until(folder: Path, arguments: list[str], step: int, number: int) -> int:
    """Start a run and send it the signal once `step` was logged; a killed run's workers outlive it by seconds."""
    process = start_ta(arguments, folder)
    deadline = time.monotonic() + 240
    while steps_logged(folder) < step and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, (folder / "log.txt").read_text()
    process.send_signal(number)
    return process.wait(timeout=120)


@pytest.fixture(scope="module")
def undisturbed(run_settings, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    status, log = run_ta(settings(run_settings, "data.num_workers=1"), folder)
    assert status == 0, log
    assert len([key for key in metrics(folder) if key[1] == "train/loss"]) == MAX_STEPS
    return folder


def test_killed_and_interrupted_run_equals_an_undisturbed_one(run_settings, undisturbed, tmp_path):
    """SIGKILL in mid-epoch with two workers, then Ctrl+C with none, then on to the end with one."""
    status = run_until(tmp_path, settings(run_settings, "data.num_workers=2"), 6, signal.SIGKILL)
    assert status == -signal.SIGKILL
    killed_at = CheckpointFolder(tmp_path / "outputs/transcription/checkpoints").steps()[-1]
    assert killed_at >= 4

    status = run_until(tmp_path, settings(run_settings, "data.num_workers=0"), killed_at + 5, signal.SIGINT)
    assert status == 130, (tmp_path / "log.txt").read_text()
    log = (tmp_path / "log.txt").read_text()
    assert f"Resuming from step {killed_at}..." in log
    stopped_at = CheckpointFolder(tmp_path / "outputs/transcription/checkpoints").steps()[-1]
    assert f"Saved at step {stopped_at}; the same command continues from there." in log
    assert stopped_at > killed_at

    status, log = run_ta(settings(run_settings, "data.num_workers=1"), tmp_path)
    assert status == 0, log
    wanted = [
        f"[INFO] Found checkpoint at outputs/transcription/checkpoints/checkpoint-step-{stopped_at}.pt",
        f"[INFO] Resuming from step {stopped_at}...",
        *(f"[INFO] Loading {part} state..." for part in ("model", "optimizer", "scheduler", "RNG")),
        "[INFO] Resume successful!",
        f"Step {stopped_at + 1}/{MAX_STEPS}: loss=",
    ]
    positions = [log.find(line) for line in wanted]
    assert -1 not in positions, log
    assert positions == sorted(positions)

    assert metrics(tmp_path) == metrics(undisturbed)
    ours, theirs = (
        load_checkpoint(folder / "outputs/transcription/checkpoints/final.pt") for folder in (tmp_path, undisturbed)
    )
    for name, weight in theirs["weights"]["projector"].items():
        assert torch.equal(ours["weights"]["projector"][name], weight), name
    for state in (ours["state"], theirs["state"]):
        state.pop("train_seconds")
    assert ours["state"] == theirs["state"]


def test_the_run_could_have_differed(undisturbed, run_settings, tmp_path):
    """Another seed gives other losses: the equality above is no accident of a run without randomness."""
    status, log = run_ta(settings(run_settings, "training.seed=43", "training.max_steps=3"), tmp_path)
    assert status == 0, log
    assert metrics(tmp_path)[1, "train/loss"] != metrics(undisturbed)[1, "train/loss"]


def test_what_a_finished_run_leaves(undisturbed):
    folder = undisturbed / "outputs/transcription/checkpoints"
    names = {entry.name for entry in folder.iterdir()}
    assert {"final.pt", "config.yaml", "training_state.json", f"checkpoint-step-{MAX_STEPS}.pt"} <= names
    state = json.loads((folder / "training_state.json").read_text())
    assert state["finished"]
    assert [row["step"] for row in state["history"]] == [6, 12, 18, 24]
    assert state["best"]["checkpoint"] in names
    assert len(CheckpointFolder(folder).steps()) <= 4  # three, and the best
    assert not [name for name in names if name.endswith(".tmp")]


def test_a_finished_run_started_again_trains_nothing(undisturbed, run_settings):
    before = (undisturbed / "outputs/transcription/metrics.jsonl").read_text()
    status, log = run_ta(settings(run_settings), undisturbed)
    assert status == 0
    assert f"Step {MAX_STEPS}: nothing is left to train" in log
    assert (undisturbed / "outputs/transcription/metrics.jsonl").read_text() == before


def test_going_back_to_an_older_checkpoint_and_on_from_there(undisturbed, run_settings, tmp_path):
    """The first start takes the named one and moves later ones aside; the same command then goes on from its own."""
    shutil.copytree(undisturbed / "outputs", tmp_path / "outputs")
    folder = CheckpointFolder(tmp_path / "outputs/transcription/checkpoints")
    first = folder.steps()[0]
    named = f"training.resume_from_checkpoint=outputs/transcription/checkpoints/checkpoint-step-{first}.pt"
    status, log = run_ta(settings(run_settings, named, f"training.max_steps={first + 4}"), tmp_path)
    assert status == 0, log
    assert f"Resuming from step {first}..." in log
    assert "later checkpoints were moved to" in log
    assert (folder.steps()[0], folder.steps()[-1]) == (first, first + 4)
    status, log = run_ta(settings(run_settings, named, f"training.max_steps={first + 5}"), tmp_path)
    assert status == 0, log
    assert f"Resuming from step {first + 4}..." in log


def test_a_run_in_bf16_goes_on_to_the_bit(run_settings, tmp_path, monkeypatch):
    own = ["hardware.mixed_precision=bf16", "training.save_steps=2", "training.max_steps=3", "data.eval_datasets=[]"]
    typed = ["train", *run_settings, *own]
    for name in ("straight", "stopped"):
        checkpoints = tmp_path / name / "outputs/transcription/checkpoints"
        checkpoints.mkdir(parents=True)
        if name == "stopped":
            shutil.copy(tmp_path / "straight/outputs/transcription/checkpoints/checkpoint-step-2.pt", checkpoints)
        monkeypatch.chdir(tmp_path / name)
        assert main(typed) == 0
    straight, stopped = metrics(tmp_path / "straight"), metrics(tmp_path / "stopped")
    assert stopped == {key: value for key, value in straight.items() if key[0] > 2}
    assert {key[0] for key in stopped} == {3}


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP, signal.SIGQUIT])
def test_each_signal_that_asks_a_run_to_stop_has_it_saved(run_settings, tmp_path, monkeypatch, number):
    monkeypatch.chdir(tmp_path)
    step = Trainer.train_step

    def signaled(self, given):
        if self.state.step == 1:
            signal.raise_signal(number)
        return step(self, given)

    monkeypatch.setattr(Trainer, "train_step", signaled)
    with pytest.raises(SystemExit) as left:
        main(["train", *run_settings, "data.eval_datasets=[]"])
    assert left.value.code == 128 + number
    assert CheckpointFolder(tmp_path / "outputs/transcription/checkpoints").steps() == [2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_schedulers_signal_to_every_process_of_a_run_saves_and_leaves(run_settings, tmp_path, number):
    """As before a machine is taken away: by its group, or one by one. Workers must not pull the run down with them."""
    process = start_ta(settings(run_settings, "data.num_workers=2", "training.max_steps=2000"), tmp_path)
    while steps_logged(tmp_path) < 3 and process.poll() is None:
        time.sleep(0.02)
    workers = [one for one in psutil.Process(process.pid).children(recursive=True) if one.is_running()]
    assert len(workers) >= 2
    for worker in workers:
        if "resource_tracker" not in " ".join(worker.cmdline()):
            worker.send_signal(number)
    os.killpg(process.pid, number)
    assert process.wait(timeout=60) == 128 + number, (tmp_path / "log.txt").read_text()
    assert not psutil.wait_procs(workers, timeout=20)[1]
    log = (tmp_path / "log.txt").read_text()
    newest = CheckpointFolder(tmp_path / "outputs/transcription/checkpoints").steps()[-1]
    assert f"Saved at step {newest}; the same command continues from there." in log
    assert "Traceback" not in log


@pytest.mark.slow  # by default it is a scheduler's signal: see below
@pytest.mark.parametrize("whom", ["torchrun", "all"])
def test_a_signal_to_several_processes_saves_and_leaves(run_settings, tmp_path, whom):
    """Where a scheduler signals all, each gets it again from torchrun: no second request. Steps are long here."""
    slow = ["training.max_steps=500", "training.gradient_accumulation_steps=20", "training.save_steps=500"]
    program = ["-m", "tiny_audio.cli", *settings(run_settings, *slow, "data.eval_datasets=[]")]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", *program]
    with (tmp_path / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 120
    while steps_logged(tmp_path) < 1 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    for worker in psutil.Process(process.pid).children() if whom == "all" else []:
        worker.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) != 0
    log = (tmp_path / "log.txt").read_text()
    assert log.count("[WARN] Stopping after this step; again to leave without saving.") == 2
    *_, step = CheckpointFolder(tmp_path / "outputs/transcription/checkpoints").steps()
    assert f"[INFO] Saved at step {step}; the same command continues from there." in log


def test_two_runs_in_one_folder_are_refused(run_settings, tmp_path, monkeypatch, capsys):
    first = start_ta(settings(run_settings, "training.max_steps=2000"), tmp_path)
    while steps_logged(tmp_path) < 1 and first.poll() is None:
        time.sleep(0.02)
    monkeypatch.chdir(tmp_path)
    assert main(settings(run_settings)) == 2
    assert "another run is writing to outputs/transcription; wait" in capsys.readouterr().err.splitlines()[-1]
    assert first.poll() is None
    first.send_signal(signal.SIGINT)
    assert first.wait(timeout=60) == 130


def test_two_processes_make_the_steps_of_one_that_accumulates(run_settings, tmp_path):
    """The same global batches and, to rounding, the same losses; then on with one process."""
    no_dropout = ["model.projector_config.dropout=0", "model.audio_token_dropout=0"]
    arguments = [*settings(run_settings), *no_dropout, "training.max_steps=6"]
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    status, log = run_ta(arguments, one)
    assert status == 0, log
    statuses, log = run_together([*arguments, "training.gradient_accumulation_steps=1"], two)
    assert statuses == [0, 0], log
    single, double = metrics(one), metrics(two)
    assert single.keys() == double.keys()
    for key, value in single.items():
        assert double[key] == pytest.approx(value, rel=1e-4), key
    status, log = run_ta([*arguments, "training.max_steps=7"], two)
    assert status == 0, log
    assert "Resuming from step 6..." in log


def test_an_unfinished_run_goes_on_with_other_data_and_says_so(undisturbed, run_settings, tmp_path):
    """As after running out of memory: another batch size, the same weights."""
    shutil.copytree(undisturbed / "outputs", tmp_path / "outputs")
    folder = CheckpointFolder(tmp_path / "outputs/transcription/checkpoints")
    folder.file(MAX_STEPS).unlink()
    step = folder.steps()[-1]
    status, log = run_ta(settings(run_settings, "training.batch_size=4", f"training.max_steps={step + 1}"), tmp_path)
    assert status == 0, log
    assert f"Resuming from step {step}..." in log
    assert "training continues from its weights with the new data" in log
    assert (folder.path / "final.pt").is_file()
