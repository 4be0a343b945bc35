"""The guide's own command with the corpora that ship, from a Hub on this machine, whole and streamed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from clips import read_lines
from hub_stub import HubStub, at_hub, serving
from runs import metrics
from tiny_audio.cli import main

Ta = Callable[[Path, list[str]], tuple[int, str]]

WEIGHTS = {"librispeech": 0.3, "common_voice": 0.2, "gigaspeech": 0.3, "tedlium": 0.1, "voxpopuli": 0.1}


@pytest.fixture(scope="module")
def hub(standins: Path) -> Iterator[HubStub]:
    with serving(standins) as server:
        yield server


def arguments(run_settings: list[str], *more: str) -> list[str]:
    own = [setting for setting in run_settings if not setting.startswith("data.")]
    return ["train", *own, "data.num_workers=1", "training.batch_size=16", *more]


@pytest.fixture
def ta(hub: HubStub, capsys: pytest.CaptureFixture[str]) -> Ta:
    """Type `ta` and this in a folder; get the exit status and what is printed."""

    def run(folder: Path, typed: list[str]) -> tuple[int, str]:
        with at_hub(hub.endpoint, folder):
            status = main(typed)
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


def train(ta: Ta, folder: Path, run_settings: list[str], *more: str) -> str:
    status, log = ta(folder, arguments(run_settings, *more))
    assert status == 0, log
    return log


def test_the_quick_test_mixes_the_five_corpora(ta: Ta, run_settings: list[str], tmp_path: Path) -> None:
    log = train(ta, tmp_path, run_settings, "data.max_samples=50", "training.max_steps=25", "training.eval_steps=25")
    assert "librispeech: 15 clips" in log
    assert "Mixture, shares of the clips drawn: librispeech 30.0%, common_voice 20.0%, gigaspeech 30.0%" in log
    assert (
        "8 clips skipped: common_voice 1 empty_text; gigaspeech 4 empty_text; librispeech 1 empty_text; tedlium 1"
        in log
    )
    assert re.search(r"Trained on 0\.\d h: \w+ 0\.\d h \((29|30)\.\d% of the clips\)", log)
    state = json.loads((tmp_path / "outputs/transcription/checkpoints/training_state.json").read_text())
    corpora = state["corpora"]
    assert corpora["tedlium"]["origin"] == "sanchit-gandhi/tedlium-data@0123456789ab (train)"
    seen = np.array([corpora[name]["seen"] for name in WEIGHTS])
    assert seen.sum() == 400
    np.testing.assert_allclose(seen / 400, list(WEIGHTS.values()), atol=0.01)
    hours = sum(corpus["hours_seen"] for corpus in corpora.values())
    assert hours == pytest.approx(state["hours_of_audio_seen"], abs=3e-3), "each is rounded to a thousandth"
    rows = read_lines(tmp_path / "outputs/transcription/metrics.jsonl")
    last = [row for row in rows if "train/loss" in row][-1]
    assert last["data/share_gigaspeech"] == pytest.approx(0.3, abs=0.01)
    assert last["data/hours"] == pytest.approx(state["hours_of_audio_seen"], 1e-2)


def test_a_streamed_run_that_stops_goes_on_as_if_it_had_not(ta: Ta, run_settings: list[str], tmp_path: Path) -> None:
    """With another number of workers, and a disk that holds a row group of each corpus."""
    streamed = [
        "data.streaming=true",
        "training.lr_schedule=constant",
        "training.eval_steps=100",
        "data.eval_datasets=[]",
    ]
    train(ta, tmp_path / "whole", run_settings, *streamed, "training.max_steps=6")
    train(ta, tmp_path / "stopped", run_settings, *streamed, "training.max_steps=3")
    small = ["data.num_workers=0", "data.streaming_disk_gb=1e-6"]
    log = train(ta, tmp_path / "stopped", run_settings, *streamed, *small, "training.max_steps=6")
    assert "Resuming from step 3" in log
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")


def test_a_look_at_streams_fetches_one_row_group_of_each(ta: Ta, run_settings: list[str], tmp_path: Path) -> None:
    settings = [setting for setting in run_settings if not setting.startswith("data.")]
    status, log = ta(tmp_path, ["data", "check", *settings, "data.streaming=true"])
    assert status in (0, 1), log
    for name in WEIGHTS:
        assert f"{name} (train)" in " ".join(log.split())
    assert len(list(tmp_path.rglob("*.arrow"))) - len(list((tmp_path / "hf").rglob("*.arrow"))) == len(WEIGHTS)
