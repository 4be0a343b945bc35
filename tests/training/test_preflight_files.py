"""Preflight: the room on the disk, and recordings that cannot be read."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from clips import read_lines, write_manifest
from tiny_audio.cli import main
from tiny_audio.config import TrainingConfig
from tiny_audio.training import preflight as package
from tiny_audio.training.checkpoint import CheckpointFolder
from tiny_audio.training.preflight import disk
from tiny_audio.training.preflight.disk import check_disk, checkpoint_bytes, count_saves
from tiny_audio.training.preflight.readable import Sample, check_readable, spread


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("ta train: error: ")]


# Disk


def most_files_at_once(folder: Path, training: TrainingConfig, step: int, evaluates: bool, there: list[int]) -> int:
    """Save and prune as a run does in which every evaluation up to some step is the best yet; count files at a save."""
    most = 0
    for improves_until in range(step, training.max_steps + 1):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        checkpoints = CheckpointFolder(folder)
        for saved in there:
            checkpoints.file(saved).touch()
        best = there[0] if there and evaluates else None
        for now in range(step + 1, training.max_steps + 1):
            evaluated = evaluates and (now % training.eval_steps == 0 or now == training.max_steps)
            improved = evaluated and (now <= improves_until or best is None)
            if improved or now % training.save_steps == 0 or now == training.max_steps:
                checkpoints.file(now).touch()
                most = max(most, len(checkpoints.steps()) - len(there))
                best = now if improved else best
                keep = 1 if training.save_best_only else training.save_total_limit
                checkpoints.prune(keep, newest=now, best=best)
    return most


@pytest.mark.parametrize("limit", [1, 2, 5])
@pytest.mark.parametrize("evaluates", [True, False])
@pytest.mark.parametrize(("step", "there"), [(0, []), (10, [8, 10]), (10, [2, 4, 6, 8, 10])])
def test_the_room_is_that_of_the_checkpoints_to_come(limit, evaluates, step, there, tmp_path, monkeypatch):
    """Against a folder in which checkpoints really come and go."""
    for max_steps, save_steps, eval_steps in ((12, 2, 3), (40, 2, 3), (40, 20, 1), (41, 30, 30)):
        training = TrainingConfig(
            max_steps=max_steps, save_steps=save_steps, eval_steps=eval_steps, save_total_limit=limit
        )
        most = max(1, most_files_at_once(tmp_path / "folder", training, step, evaluates, there))
        for number in there:
            (tmp_path / "folder" / f"checkpoint-step-{number}.pt").touch()
        folder = CheckpointFolder(tmp_path / "now")
        shutil.rmtree(folder.path, ignore_errors=True)
        folder.path.mkdir()
        for number in there:
            folder.file(number).touch()

        def check(free: int, training=training, folder=folder):
            monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
            return check_disk(folder, training, step, evaluates, size=100)

        assert check((most + 1) * 100 + 34).notes, (
            "what it really takes, or the best checkpoint besides, and final.pt are enough"
        )
        tight = check((most - 1) * 100)
        assert tight.warnings or tight.errors, "a checkpoint less is not"


def test_too_small_a_disk_is_an_error_and_a_tight_one_a_warning(tmp_path, monkeypatch):
    training, folder = TrainingConfig(), CheckpointFolder(tmp_path)

    def check(free: float, **changed: object):
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: SimpleNamespace(free=int(free)))
        return check_disk(folder, TrainingConfig(**changed), 0, True, 151_000_000)

    (error,) = check(300e6).errors
    assert error == (
        f"paths.output_dir: {tmp_path} has 300 MB free, too little for 2 checkpoints of 151 MB, since a new one is "
        "written before an old one is deleted; make room, or set paths.output_dir to a larger disk."
    )
    (warning,) = check(1e9).warnings
    assert warning == (
        f"paths.output_dir: {tmp_path} has 1 GB free, and up to 7 checkpoints of 151 MB and final.pt (1.11 GB) will "
        "come there; make room, or lower training.save_total_limit=5."
    )
    assert check(1.1e9).warnings, "final.pt is a third of one more"
    assert check(1.2e9).notes == ["7 checkpoints of 151 MB fit on the disk (1.2 GB free)"]
    assert check(1.2e9, save_total_limit=None).warnings, "all ten, and the best"
    assert check(11.4 * 151e6, save_total_limit=None).notes
    assert check(360e6, save_best_only=True).warnings[0].endswith("make room.")
    assert check(210e6, max_steps=1).notes, "a run that saves once"
    assert list(tmp_path.iterdir()) == []
    assert count_saves(training, 0, False) == 10


@pytest.mark.parametrize("more", [[], ["model.use_lora=true"], ["model.freeze_decoder=false"]])
def test_the_size_of_a_checkpoint_is_known_before_it_is_written(run_settings, more, tmp_path, monkeypatch):
    seen = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(package, "checkpoint_bytes", lambda model: seen.append(checkpoint_bytes(model)) or seen[0])
    wide = "model.projector_config.hidden_dim=1024"
    assert main(["train", *run_settings, *more, wide, "training.max_steps=1", "data.eval_datasets=[]"]) == 0
    folder = tmp_path / "outputs/transcription/checkpoints"
    real, final = ((folder / name).stat().st_size for name in ("checkpoint-step-1.pt", "final.pt"))
    assert 0.97 * real < seen[0] < 1.1 * real
    assert 0.9 * seen[0] < 3 * final < 1.2 * seen[0]


# Recordings


def test_a_folder_that_moved_ends_the_run_at_once(run_settings, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for split in ("train", "dev"):
        shutil.copy(corpus / f"{split}.jsonl", tmp_path)  # without the recordings
    typed = [*run_settings, f"data.datasets=[{{path: {tmp_path}/train.jsonl}}]"]
    assert main(["train", *typed]) == 2
    (error,) = errors(capsys.readouterr().err)
    name = error.split("; ")[1].split(":")[0]
    assert error == (
        f"ta train: error: data.datasets: train.jsonl: none of the 50 clips sampled can be used; {name}: missing, "
        f"there is no file {tmp_path}/{name}. Was the folder moved, or is its disk not mounted?"
    )
    assert main(["train", *run_settings, f"data.eval_datasets=[{{path: {tmp_path}/dev.jsonl}}]"]) == 2
    (error,) = errors(capsys.readouterr().err)
    assert "data.eval_datasets: dev.jsonl: none of the 10 clips sampled can be used; dev" in error
    assert main(["train", *typed, "training.preflight=false", "training.max_steps=1"]) == 0


def test_some_unreadable_clips_are_a_warning_that_says_how_it_will_end(
    run_settings, corpus, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    rows = read_lines(corpus / "train.jsonl")
    for i, row in enumerate(rows):
        row["audio"] = str(corpus / row["audio"]) if i % 2 else "gone.flac"
    write_manifest(tmp_path / "half.jsonl", rows)
    typed = [*run_settings, f"data.datasets=[{{path: {tmp_path}/half.jsonl}}]", "training.max_steps=1"]
    assert main(["train", *typed]) == 0
    log = capsys.readouterr().err
    found = re.search(
        r"\[WARN\] data.datasets: (\d+) of (\d+) clips sampled of half.jsonl cannot be used \((\d+) missing\), such as "
        r"gone.flac: there is no file .*gone.flac; such clips are skipped.",
        log,
    )
    assert found, log
    assert found[1] == found[3]
    assert 40 < int(found[2]) <= 58
    assert 0.3 < int(found[1]) / int(found[2]) < 0.7
    assert re.search(r"\[WARN\] data: about \d+% of the clips drawn cannot be used, and the run stops above", log)
    assert main(["train", *typed, "data.max_skipped_share=0.6", "paths.output_dir=other"]) == 0
    assert "the run stops above" not in capsys.readouterr().err


def test_a_share_is_only_told_where_the_sample_is_clear():
    def sample(bad: int, count: int = 50, size: int = 10**6) -> Sample:
        skip = SimpleNamespace(reason="missing", name="a", detail="b")
        return Sample("s", size, count, [skip] * bad, 1.0, 1.0)

    def stops(samples: list[Sample], shares: list[float]) -> bool:
        return any("the run stops above" in line for line in check_readable(samples, [], shares, 0.2).warnings)

    assert not stops([sample(0)], [1.0])
    assert not stops([sample(12)], [1.0]), "24 of 100, give or take 12"
    assert stops([sample(17)], [1.0])
    assert stops([sample(12, size=50)], [1.0]), "all clips were tried"
    assert not stops([sample(25), sample(0)], [0.3, 0.7]), "weights count"
    assert stops([sample(25), sample(0)], [0.7, 0.3])


@pytest.mark.parametrize("size", [1, 7, 8, 9, 50, 10_000])
def test_a_sample_is_spread_over_the_source(size):
    rows = spread(size, 8, np.random.default_rng(0))
    assert len(set(rows)) == len(rows) == min(size, 8)
    assert rows == sorted(rows)
    assert 0 <= rows[0] < size / len(rows) + 1
    assert size - size / len(rows) - 1 <= rows[-1] < size
