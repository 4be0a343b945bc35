"""A checkpoint of the tiny models that places words, and recordings for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runs import run_ta
from serving import Running, serving
from tiny_audio.inference import Decoding, Recognizer


@pytest.fixture(scope="session")
def checkpoint(run_settings, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    words = ["training.ctc_loss_weight=0.3", "training.ctc_min_count=3"]  # a CTC head
    status, log = run_ta(["train", *run_settings, "training.max_steps=1", *words], folder)
    assert status == 0, log
    return folder / "outputs/transcription/checkpoints/final.pt"


@pytest.fixture(scope="session")
def recognizer(checkpoint) -> Recognizer:
    few = Decoding(max_new_tokens=4, loop_guard=False)  # few enough words to be placed
    return Recognizer(checkpoint, "cpu", decoding=few)


@pytest.fixture(scope="session")
def server(recognizer) -> Iterator[Running]:
    with serving(recognizer, max_upload_mb=2, max_seconds=20) as running:
        yield running


@pytest.fixture
def noise() -> np.ndarray:
    """Eight seconds: several pieces."""
    return (0.1 * np.random.default_rng(5).standard_normal(8 * 16_000)).astype(np.float32)
