"""A checkpoint of the tiny models, trained for a step."""

from __future__ import annotations

from pathlib import Path

import pytest

from runs import run_ta


@pytest.fixture(scope="session")
def checkpoint(run_settings, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    status, log = run_ta(["train", *run_settings, "training.max_steps=1"], folder)
    assert status == 0, log
    return folder / "outputs/transcription/checkpoints/final.pt"
