"""`ta clean-checkpoints` as it is typed: what goes, what stays, and what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoint_folders import write_run
from tiny_audio.cli import main

WERS = {10: 0.2, 20: 0.9, 30: 0.5, 40: 0.6, 50: 0.7, 60: None, 70: 0.8}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TA_DEBUG", raising=False)
    return write_run(tmp_path / "out", WERS)


def clean(*typed: str) -> int:
    return main(["clean-checkpoints", *typed])


def left() -> set[int]:
    return {int(path.stem.split("-")[-1]) for path in Path("out/checkpoints").glob("checkpoint-step-*.pt")}


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ([], {10, 30, 40, 60, 70}),
        (["--keep-best", "1", "--keep-last", "1"], {10, 70}),
        (["keep_best=2", "keep_last=3"], {10, 30, 50, 60, 70}),
        (["--keep-best=0", "--keep-last=0"], {10, 70}),
        (["--keep-best", "9", "--keep-last", "9"], set(WERS)),
    ],
)
@pytest.mark.parametrize("folder", ["out", "out/checkpoints/"])
def test_the_best_and_the_newest_stay(typed, kept, folder, run):
    assert clean(*typed, "--output-dir", folder) == 0
    assert left() == kept
    assert (run.path / "final.pt").is_file()
    state = json.loads((run.path / "training_state.json").read_text())
    assert state["checkpoints"] == [f"checkpoint-step-{step}.pt" for step in sorted(kept)]
    assert state["step"] == 70


def test_what_is_best_is_what_the_run_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "out", WERS, metric="loss")
    assert clean("--keep-best", "1", "--keep-last", "1", "--output-dir", "out") == 0
    assert left() == {20, 70}


def test_a_dry_run_says_it_and_deletes_nothing(run, capsys):
    before = {path: path.read_bytes() for path in run.path.iterdir()}
    assert clean("--keep-best", "2", "--keep-last", "1", "--dry-run", "--output-dir", "out") == 0
    assert {path: path.read_bytes() for path in run.path.iterdir()} == before
    lines = capsys.readouterr().out.splitlines()
    freed = sum(run.file(step).stat().st_size for step in (20, 40, 50, 60))
    assert [line.split() for line in lines[1:4]] == [
        ["checkpoint-step-10.pt", "wer", "20.0%", "kept:", "best"],
        ["checkpoint-step-20.pt", "wer", "90.0%", "would", "delete"],
        ["checkpoint-step-30.pt", "wer", "50.0%", "kept:", "best,", "2", "of", "2"],
    ]
    assert lines[6].split() == ["checkpoint-step-60.pt", "not", "evaluated", "would", "delete"]
    assert lines[-1].startswith(f"4 of 7 checkpoints would be deleted, which would free {freed:,} bytes (")
    assert lines[-1].endswith("Nothing was deleted.")


def test_a_file_with_a_second_name_frees_nothing(run, capsys):
    (run.path / "mine.pt").hardlink_to(run.file(20))
    freed = run.file(50).stat().st_size + run.file(60).stat().st_size
    assert clean("--keep-best", "3", "--keep-last", "1", "--output-dir", "out") == 0
    assert left() == {10, 30, 40, 70}
    assert f"3 of 7 checkpoints deleted, {freed:,} bytes" in capsys.readouterr().out


def test_the_newest_that_can_be_read_stays(run, capsys):
    run.file(70).write_bytes(b"damaged")
    assert clean("--keep-best", "1", "--keep-last", "1", "--output-dir", "out") == 0
    assert left() == {10, 60, 70}
    assert "kept: newest that can be read" in capsys.readouterr().out


def test_without_the_index_the_newest_checkpoint_knows(run):
    (run.path / "training_state.json").unlink()
    assert clean("--keep-best", "1", "--keep-last", "1", "--output-dir", "out") == 0
    assert left() == {10, 70}
    assert not (run.path / "training_state.json").exists()


def test_several_runs(run, tmp_path, capsys):
    other = write_run(tmp_path / "other", {1: 0.5, 2: 0.6, 3: 0.7})
    assert clean("--keep-best", "1", "--keep-last", "1", "--output-dir", "out", "other/checkpoints") == 0
    assert left() == {10, 70}
    assert other.steps() == [1, 3]
    assert capsys.readouterr().out.count(" deleted, ") == 2


def test_a_run_that_is_writing_is_left_alone(run, tmp_path, capsys):
    write_run(tmp_path / "other", {1: 0.5, 2: 0.6, 3: 0.7})
    program = "import filelock; held = filelock.FileLock('out/.lock').acquire(); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        assert clean("--output-dir", "other", "out") == 2
        writer.communicate(b"\n")
    message = "ta clean-checkpoints: error: a run is writing to out; wait for it, or stop it first.\n"
    assert capsys.readouterr() == ("", message)
    assert left() == set(WERS)
    assert len(list(Path("other/checkpoints").glob("checkpoint-step-*"))) == 3, "none was touched"
    assert clean("--output-dir", "out") == 0


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ([], "name a run: ta clean-checkpoints --output-dir outputs/transcription/"),
        (["--output-dir", "nowhere"], "there is no folder nowhere."),
        (["--output-dir", "empty"], "there are no checkpoints in empty."),
        (["--output-dir", "above"], "there are no checkpoints in above. There are some in above/run/checkpoints."),
        (["--output-dir", "out", "--keep-best", "-1"], "--keep-best must be at least 0, got -1."),
        (["--output-dir", "out", "--keep-best", "x"],
         "argument --keep-best: invalid int value: 'x'; `ta clean-checkpoints --help` says more."),
        (["--output-dir", "broken"],
         "broken/checkpoints/training_state.json cannot be read; move it away to use the history in the newest "
         "checkpoint."),
    ],
)  # fmt: skip
def test_mistakes(typed, message, run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "above" / "run", {1: 0.5})
    (write_run(tmp_path / "broken", {1: 0.5, 2: 0.3}).path / "training_state.json").write_text("{")
    assert clean(*typed) == 2
    assert capsys.readouterr() == ("", f"ta clean-checkpoints: error: {message}\n")
    assert left() == set(WERS)
