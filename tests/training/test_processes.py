"""Several processes: one folder, one start, and waiting for each other as long as the work takes; real processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from clips import read_lines
from runs import run_together, start_together
from tiny_audio.cli import main
from tiny_audio.config import Config, TrainingConfig
from tiny_audio.errors import UserError
from tiny_audio.training.build import share_out_batch
from tiny_audio.training.loop import Trainer

SLOW = 3.0  # seconds that the first process takes to download the models: longer than training may wait


def download_slowly() -> None:
    from tiny_audio.training import build

    load = build.build_speech_llm

    def download(*arguments):
        if os.environ["RANK"] == "0":
            time.sleep(SLOW)
        return load(*arguments)

    build.build_speech_llm = download


def test_processes_with_separate_output_folders_are_refused_in_one_line(run_settings, tmp_path):
    """As two machines without a shared folder: the one would go on from its checkpoint, the other begin afresh."""
    statuses, log = run_together(["train", *run_settings, f"paths.output_dir={tmp_path}/outRANK"], tmp_path)
    assert statuses == [2, 2], log
    assert f"ta train: error: the processes of this run do not see the same folder {tmp_path}/out0/transcription" in log
    assert "paths.output_dir has to be one folder for all of them." in log
    assert "Traceback" not in log
    assert not list(tmp_path.glob("out*/transcription/checkpoints/*"))


def test_processes_that_were_started_differently_are_refused(run_settings, tmp_path):
    statuses, log = run_together(["train", *run_settings, "training.learning_rate=1e-RANK"], tmp_path)
    assert statuses == [2, 2], log
    assert "the processes of this run do not see the same training settings and precision: start all of them" in log


def test_a_download_may_take_longer_than_a_step_may_be_waited_for(run_settings, tmp_path):
    timeout = f"hardware.training_timeout_minutes={SLOW / 2 / 60}"
    settings = [*run_settings, timeout, "training.preflight=false"]
    statuses, log = run_together(["train", *settings], tmp_path, download_slowly)
    assert statuses == [0, 0], log
    assert "[INFO] Clips per step: 16 (2 processes x batch of 8 x 1 accumulated)" in log
    assert "Training completed!" in log


def test_when_one_is_killed_during_a_download_the_other_does_not_wait_for_ever(run_settings, tmp_path):
    """It waits for hours for one that works, and ends at once with one that is gone; nothing was trained."""
    first, second = start_together(["train", *run_settings], tmp_path, download_for_ever)
    deadline = time.monotonic() + 120
    while not (tmp_path / "downloading").is_file() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert second.poll() is None, "the second waits until the first is done"
    first.kill()
    assert second.wait(timeout=60) != 0
    assert not list(tmp_path.glob("outputs/transcription/checkpoints/*.pt"))


def download_for_ever() -> None:
    from tiny_audio.training import build

    def download(*arguments):
        assert os.environ["RANK"] == "0", "the others wait"
        Path("downloading").touch()
        time.sleep(600)

    build.build_speech_llm = download


def logged(folder: Path) -> list[dict[str, float]]:
    rows = read_lines(folder / "outputs/transcription/metrics.jsonl")
    return [{key: row[key] for key in ("step", "train/loss", "train/grad_norm")} for row in rows if "train/loss" in row]


def test_settings_of_accelerates_launcher_do_not_change_what_a_run_computes(
    run_settings, tmp_path, monkeypatch, capsys
):
    """Accumulation in its environment would divide the gradients once more, a backend would compile the model."""
    found = []
    for name, environment in (
        ("plain", {}),
        ("launched", {"GRADIENT_ACCUMULATION_STEPS": "4", "DYNAMO_BACKEND": "EAGER"}),
    ):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        for key, value in environment.items():
            monkeypatch.setenv(f"ACCELERATE_{key}", value)
        own = ["data.eval_datasets=[]", "training.preflight=false", "training.max_steps=2"]
        assert main(["train", *run_settings, *own]) == 0
        found.append(logged(tmp_path / name))
    assert found[0] == found[1]
    log = capsys.readouterr().err
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4 of the launcher is ignored" in log
    assert "ACCELERATE_DYNAMO_BACKEND=EAGER of the launcher is ignored; set hardware.compile instead." in log


@pytest.mark.parametrize(("processes", "accumulated"), [(1, 8), (2, 4), (8, 1)])
def test_a_total_batch_size_is_made_up_by_any_number_of_processes(processes, accumulated, caplog):
    config = Config(training=TrainingConfig(batch_size=16, total_batch_size=128))
    caplog.set_level("INFO", "tiny_audio")
    share_out_batch(config, processes)
    assert config.training.gradient_accumulation_steps == accumulated
    assert caplog.messages[0].startswith("Clips per step: 128 (")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"total_batch_size": 100},
            r"=100 is not a multiple of 2 processes x training.batch_size=16 = 32",
        ),
        ({"total_batch_size": 64, "gradient_accumulation_steps": 4}, r"asks for 2 accumulations, and .*steps=4; leave"),
    ],
)
def test_a_total_that_cannot_be_made_up_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        share_out_batch(Config(training=TrainingConfig(batch_size=16, **settings)), 2)


def test_a_checkpoint_is_mapped_and_let_go_of_after_resuming(run_settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *run_settings, "training.max_steps=2", "data.eval_datasets=[]"]) == 0
    mapped: list[bool] = []

    def maps() -> bool:
        return "checkpoint-step-" in Path("/proc/self/maps").read_text()

    from tiny_audio.training import run

    initialize, step = run.initialize_weights, Trainer.train_step
    monkeypatch.setattr(run, "initialize_weights", lambda *given: (mapped.append(maps()), initialize(*given))[1])
    monkeypatch.setattr(Trainer, "train_step", lambda self, given: (mapped.append(maps()), step(self, given))[1])
    assert main(["train", *run_settings, "training.max_steps=3", "data.eval_datasets=[]"]) == 0
    assert mapped == [True, False]
