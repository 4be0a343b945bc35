"""Real recordings, where they lie beside the project: every file format, rate and manifest as people have them.

The folder is `../shared/speech`, or what TINY_AUDIO_SPEECH names; each corpus in it has a `manifest.jsonl` with a
`split` column.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from runs import run_ta
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data.sources import open_source

SPEECH = Path(os.environ.get("TINY_AUDIO_SPEECH", Path(__file__).parents[2] / "shared" / "speech"))

pytestmark = pytest.mark.skipif(
    not (SPEECH / "digits").is_dir(), reason=f"no real speech in {SPEECH}: set TINY_AUDIO_SPEECH"
)


@pytest.mark.parametrize(
    ("corpus", "split", "clips"),
    [("digits", "train", 1500), ("librispeech", "dev", 165), ("librispeech", "test_other", 70)],
)
def test_every_clip_is_found_and_decodes_to_its_length(corpus, split, clips, tmp_path):
    data = DataConfig(min_audio_length=0.05)
    source = open_source(DatasetConfig(path=str(SPEECH / corpus), split=split), data, tmp_path)
    assert len(source) == clips
    assert source.skipped == []
    for row in range(0, clips, max(1, clips // 20)):
        waveform = source.read(row)
        assert len(waveform) / 16_000 == pytest.approx(source.durations[row], abs=0.05)
        assert 0.001 < np.abs(waveform).max() <= 1.5


@pytest.mark.slow
def test_a_projector_learns_spoken_digits(tmp_path):
    """Three speakers to train on, one that was never heard: the command of docs/results.md, shortened."""
    sets = [f"data.{key}=[{{path: {SPEECH / 'digits'}, split: {split}}}]" for key, split in
            (("datasets", "train"), ("eval_datasets", "test"))]  # fmt: skip
    status, log = run_ta(["train", "experiment=quickstart", *sets, "training.max_steps=400"], tmp_path)
    assert status == 0, log
    state = json.loads((tmp_path / "outputs/quickstart/checkpoints/training_state.json").read_text())
    assert state["best"]["value"] < 0.6 < state["history"][0]["wer"]
