"""Checkpoints: whole or as they were, readable without running code, and a clear line where they are not."""

from __future__ import annotations

import json
import resource
from contextlib import contextmanager

import pytest
import torch

from checkpoint_folders import content
from tiny_audio.cli import main
from tiny_audio.errors import UserError
from tiny_audio.files import write_whole
from tiny_audio.training.checkpoint import VERSION, CheckpointFolder, load_checkpoint, save_checkpoint


@contextmanager
def disk_with_room_for(num_bytes: int):
    """Let the kernel refuse to write files beyond a size, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def save(folder: CheckpointFolder, *steps: int) -> None:
    folder.path.mkdir(exist_ok=True)
    for step in steps:
        save_checkpoint(folder.file(step), content(step, []))


def test_a_full_disk_loses_nothing_that_was_there(tmp_path):
    path = tmp_path / "file"
    write_whole(path, b"old")
    with disk_with_room_for(1000), pytest.raises(OSError, match="File too large"):
        write_whole(path, b"x" * 5000)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_round_trip_and_newest(tmp_path):
    folder = CheckpointFolder(tmp_path)
    save(folder, 2, 10, 9)
    assert folder.steps() == [2, 9, 10]
    path, content = folder.newest()
    assert path == folder.file(10)
    assert content["state"]["step"] == 10


def test_a_damaged_newest_checkpoint_falls_back_on_the_one_before(tmp_path, caplog):
    folder = CheckpointFolder(tmp_path)
    save(folder, 1, 2)
    folder.file(2).write_bytes(folder.file(2).read_bytes()[:1000])
    assert folder.newest()[0] == folder.file(1)
    assert "checkpoint-step-2.pt is damaged" in caplog.text


@pytest.mark.parametrize("keep", [1, 2, 5, None])
def test_neither_the_newest_nor_the_best_is_ever_deleted(tmp_path, keep):
    folder = CheckpointFolder(tmp_path)
    save(folder, 1, 2, 3, 4)
    folder.prune(keep, newest=4, best=1)
    expected = {1: [1, 4], 2: [1, 3, 4], 5: [1, 2, 3, 4], None: [1, 2, 3, 4]}
    assert folder.steps() == expected[keep]


def test_a_run_that_went_back_keeps_what_it_has_just_saved(tmp_path):
    """After resuming from step 3 of a folder that holds later ones, the newest is not the highest."""
    folder = CheckpointFolder(tmp_path)
    save(folder, 3, 10, 20)
    folder.prune(2, newest=3, best=None)
    assert folder.steps() == [3, 10, 20]
    folder.set_aside(after=3)
    assert folder.steps() == [3]
    assert {path.name for path in (tmp_path / "set-aside").iterdir()} == {
        "checkpoint-step-10.pt",
        "checkpoint-step-20.pt",
    }


def test_a_folder_whose_checkpoints_are_all_damaged_is_not_written_over(tmp_path):
    folder = CheckpointFolder(tmp_path)
    save(folder, 1)
    folder.file(1).write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the checkpoints in .* can be read; move them away"):
        folder.newest()


class _Evil:
    def __reduce__(self):
        return (print, ("code was run",))


def test_a_checkpoint_cannot_run_code(tmp_path, capsys):
    path = tmp_path / "evil.pt"
    torch.save({"format": "tiny-audio-checkpoint", "version": 1, "evil": _Evil()}, path)
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        load_checkpoint(path)
    assert "code was run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "is damaged or not a checkpoint"),
        (b"PK\x03\x04 half a file", "is damaged or not a checkpoint"),
        ({"weights": torch.zeros(2)}, "is not a checkpoint of this toolkit"),
        ({"format": "tiny-audio-checkpoint", "version": 99}, f"format version 99; .* reads {VERSION}: update it"),
        ({"format": "tiny-audio-checkpoint", "version": 0}, f"version 0; .* reads {VERSION}: use the one that wrote"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, content, message):
    path = tmp_path / "x.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=message) as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


def test_a_missing_checkpoint_names_one_that_is_there(tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoints")
    save(folder, 7)
    with pytest.raises(UserError, match=r"is a folder.*There is .*checkpoint-step-7\.pt"):
        load_checkpoint(tmp_path)


def test_a_run_on_a_full_disk_keeps_training_and_says_at_the_end_what_is_missing(
    run_settings, tmp_path, monkeypatch, capsys
):
    """Not even a line of metrics can be written."""
    monkeypatch.chdir(tmp_path)
    arguments = ["train", *run_settings, "training.save_steps=2"]
    assert main([*arguments, "training.max_steps=2"]) == 0
    folder = CheckpointFolder(tmp_path / "outputs/transcription/checkpoints")
    before = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    capsys.readouterr()
    with disk_with_room_for(100):
        assert main([*arguments, "training.max_steps=6"]) == 2
    log = capsys.readouterr().err
    assert "config.yaml cannot be written" in log
    assert "metrics.jsonl cannot be written (File too large); training continues." in log
    assert "Step 4 could not be saved" in log
    assert "Training continues; make room before the next save." in log
    assert "ta train: error: step 6 could not be saved" in log
    assert "Traceback" not in log
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == before
    assert main([*arguments, "training.max_steps=6"]) == 0
    assert "Resuming from step 2..." in capsys.readouterr().err
    assert json.loads((folder.path / "training_state.json").read_text())["step"] == 6


def test_what_people_type_at_length_is_read_again(tmp_path):
    """A run must never refuse its own checkpoint: a long command line, notes of several lines, also from Windows."""
    saved = content(1, [])
    saved["run"] = {"command": "ta train " + "data.x=y " * 2000}
    saved["config"]["logging"]["notes"] = "one\r\n\ttwo\n" * 1000
    save_checkpoint(tmp_path / "long.pt", saved)
    assert load_checkpoint(tmp_path / "long.pt")["run"] == saved["run"]
