"""Recordings that cannot be used, in a run of two processes: both go on, or both stop."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from clips import read_lines, write_manifest
from runs import metrics, run_ta, run_together


@pytest.fixture(scope="module")
def spoilt(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the 60 clips, 40 hold NaN, which only shows when they are read."""
    folder = tmp_path_factory.mktemp("spoilt")
    rows = read_lines(corpus / "train.jsonl")
    for number, row in enumerate(rows):
        row["audio"] = str(corpus / row["audio"])
        if number % 3:
            path = folder / f"nan{number}.wav"
            soundfile.write(path, np.full(round(16_000 * row["duration"]), np.nan, np.float32), 16_000, subtype="FLOAT")
            row["audio"] = str(path)
    return write_manifest(folder / "spoilt.jsonl", rows)


def test_batches_of_which_nothing_is_left_hang_nobody(run_settings, spoilt, tmp_path):
    """With two clips a batch, many are empty on one process and not on the other."""
    common = [*run_settings, f"data.datasets=[{{path: {spoilt}}}]", "data.max_skipped_share=0.99"]
    common += [
        "model.projector_config.dropout=0",
        "training.batch_size=2",
        "training.max_steps=16",
        "training.eval_steps=16",
        "data.num_workers=1",
    ]
    statuses, log = run_together(["train", *common], tmp_path / "two")
    assert statuses == [0, 0], log
    (tmp_path / "one").mkdir()
    status, log = run_ta(["train", *common, "training.gradient_accumulation_steps=2"], tmp_path / "one")
    assert status == 0, log
    two, one = metrics(tmp_path / "two"), metrics(tmp_path / "one")
    assert two.keys() == one.keys()
    np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=2e-3, atol=1e-6)
    files = [tmp_path / name / "outputs/transcription/skipped.jsonl" for name in ("two", "one")]
    skipped = [{json.loads(line)["name"] for line in file.read_text().splitlines()} for file in files]
    assert skipped[0] == skipped[1]
    assert len(skipped[0]) >= 30


def test_too_many_of_them_end_both(run_settings, spoilt, tmp_path):
    common = [*run_settings, f"data.datasets=[{{path: {spoilt}}}]", "training.max_steps=200", "training.batch_size=8"]
    statuses, log = run_together(["train", *common], tmp_path)
    assert statuses == [2, 2], log
    assert "drawn clips had to be skipped" in log
    assert "than data.max_skipped_share=0.2 allows" in log


def test_processes_that_see_other_files_do_not_start(run_settings, corpus, tmp_path):
    lines = (corpus / "train.jsonl").read_text().replace('"audio": "', f'"audio": "{corpus}/').splitlines(keepends=True)
    for rank in range(2):
        (tmp_path / f"train{rank}.jsonl").write_text("".join(lines[rank:]))
    data = f"data.datasets=[{{path: {tmp_path}/trainRANK.jsonl}}]"
    statuses, log = run_together(["train", *run_settings, data], tmp_path)
    assert statuses == [2, 2], log
    assert "the processes of this run do not see the same training clips" in log
    assert "Starting training" not in log
