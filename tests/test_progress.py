"""Signs of life: a bar in a terminal, a line now and then elsewhere; also while a run evaluates."""

from __future__ import annotations

import io
import logging

import pytest
import rich.console

from tiny_audio import progress
from tiny_audio.cli import main
from tiny_audio.inspection.report import print_line
from tiny_audio.progress import LiveBar, Progress


@pytest.fixture
def talkative(monkeypatch, caplog):
    """Lines of progress at every step."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    caplog.set_level(logging.INFO, logger="tiny_audio")
    return caplog


def test_lines_in_a_pipe_count_what_is_done_and_guess_the_rest(talkative):
    bar = Progress("Encoding", 4, "clips")
    assert list(bar.over(["ab", "cd"], len)) == ["ab", "cd"]
    bar.close()
    assert [record.getMessage() for record in talkative.records] == [
        "Encoding: 2/4 clips, 0s left",
        "Encoding: 4/4 clips, 0s left",
    ]


def test_an_evaluation_in_training_shows_how_far_it_is(talkative, run_settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = ["training.max_steps=1", "training.eval_steps=1", "training.warmup_steps=0", "training.eval_batch_size=5"]
    assert main(["train", *run_settings, *sizes]) == 0
    lines = [record.getMessage() for record in talkative.records if record.getMessage().startswith("Evaluating: ")]
    assert [line.split(",")[0] for line in lines] == ["Evaluating: 5/10 clips", "Evaluating: 10/10 clips"]


def test_transcribing_shows_how_far_it_is(talkative, trained, corpus):
    assert main(["infer", f"checkpoint={trained}", f"audio={corpus}/train1.flac"]) == 0
    assert any(record.getMessage().startswith("Transcribing: ") for record in talkative.records)


def test_a_path_is_not_broken_by_a_narrow_terminal():
    screen = io.StringIO()
    path = "/recordings/of/the/year/before/last/clips-that-were-left-out.jsonl"
    print_line(
        rich.console.Console(file=screen, force_terminal=True, width=30), f"Clips that were left out: see {path}"
    )
    assert path in screen.getvalue()


def test_bars_of_a_run_and_of_its_evaluation_share_a_terminal(monkeypatch):
    """Two of rich's displays at once would overwrite each other."""
    screen = io.StringIO()
    console = rich.console.Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr(rich.console, "Console", lambda stderr: console)
    monkeypatch.setattr(progress, "is_terminal", lambda: True)
    run = LiveBar("Epoch 1/2", 10, 3)
    evaluation = Progress("Evaluating", 8, "clips")
    evaluation.advance(5)
    shared = LiveBar._shared
    assert [(task.description, task.completed, task.total) for task in shared.tasks] == [
        ("Epoch 1/2", 3, 10),
        ("Evaluating", 5, 8),
    ]
    evaluation.close()
    evaluation.close()
    run.update(completed=4)
    assert [task.completed for task in shared.tasks] == [4]
    run.close()
    assert LiveBar._shared is None
    assert "Evaluating" in screen.getvalue()
