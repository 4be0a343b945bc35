"""`data=leaderboard` from a Hub on this machine, laid out as the repositories are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import asr_models
from clips import parquet_of
from hub_stub import at_hub, serving
from tiny_audio.cli import main
from tiny_audio.text import CLEANERS

PRESET = Path(__file__).parents[2] / "configs" / "data" / "leaderboard.yaml"
ENTRIES = yaml.safe_load(PRESET.read_text(encoding="utf-8"))["eval_datasets"]


def test_all_sets_are_judged_whole_and_their_mean_is_of_sets(tmp_path, monkeypatch, capsys):
    for number, entry in enumerate(ENTRIES):
        folder = tmp_path / "hub" / entry["path"] / entry["subset"]
        folder.mkdir(parents=True, exist_ok=True)
        texts = [f"It cost ${i + 20}." for i in range(number + 1)]
        (folder / f"{entry['split']}-00000-of-00001.parquet").write_bytes(parquet_of(texts))
    model = asr_models.save_wav2vec2(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    with serving(tmp_path / "hub") as hub, at_hub(hub.endpoint, tmp_path):
        typed = ["--compare", str(model), str(model), "data=leaderboard", "output=rows.json", "report=judged"]
        assert main(["eval", "--device=cpu", "data.num_workers=0", *typed]) == 0
    rows = json.loads(Path("rows.json").read_text())[::2]
    assert [row["dataset"] for row in rows] == [*(entry["name"] for entry in ENTRIES), "all sets"]
    assert [row["clips"] for row in rows[:-1]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert rows[0]["words"] == 3, "with its sign: it cost $20"
    mean = sum(row["wer"] for row in rows[:-1]) / 8
    figures = json.loads(Path("judged/eval.json").read_text())
    assert figures["macro_average"][0]["wer"] == pytest.approx(mean)
    assert f"mean of 8 sets {mean:.1%} WER (whisper)" in capsys.readouterr().out


def test_no_cleaner_of_a_corpus_touches_the_leaderboard_s_own_transcripts():
    assert not {entry["name"] for entry in ENTRIES} & set(CLEANERS)
