"""A run with a decoder of each class, as it is typed; and what it leaves, evaluated and used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import decoder_zoo
from clips import read_lines
from tiny_audio.cli import main
from tiny_audio.inference import Decoding, Recognizer
from tiny_audio.training.checkpoint import load_checkpoint

# One of each way to read: packed, packed with a window, with scaled embeddings, padded, padded on the right. What each
# class computes is tested for all of them in tests/model/test_decoder_classes.py.
BY_DEFAULT = ("qwen3", "mistral", "gemma3", "qwen3_5", "recurrent_gemma")
KINDS = [
    pytest.param(name, marks=[] if name in BY_DEFAULT else pytest.mark.slow)
    for name, kind in decoder_zoo.ZOO.items()
    if kind.is_known or name in decoder_zoo.PACKED | decoder_zoo.PADDED
]


@pytest.mark.parametrize("name", KINDS)
def test_a_run_trains_goes_on_to_the_bit_evaluates_and_transcribes(
    name, run_settings, corpus, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    steps = ["training.max_steps=8", "training.save_steps=4", "training.eval_steps=8", "training.batch_size=4"]
    decoder = [f"model.decoder={decoder_zoo.save(name, tmp_path / 'decoder')}", "data.max_eval_samples=3"]

    def train(output: str) -> tuple[Path, dict]:
        assert main(["train", *run_settings, *decoder, *steps, f"paths.output_dir={output}"]) == 0
        folder = Path(output, "transcription/checkpoints")
        return folder, load_checkpoint(folder / "final.pt")

    folder, whole = train("whole")
    reason = decoder_zoo.ZOO[name].padded
    said = capsys.readouterr().err
    assert ("padded batches" in said) == (reason is not None)
    assert (reason or "") in said
    half = load_checkpoint(folder / "checkpoint-step-4.pt")["weights"]["projector"]
    assert not any(torch.equal(half[key], weight) for key, weight in whole["weights"]["projector"].items())
    assert whole["state"]["nonfinite_steps"] == 0

    Path("parted/transcription/checkpoints").mkdir(parents=True)
    shutil.copy(folder / "checkpoint-step-4.pt", "parted/transcription/checkpoints")
    _, parted = train("parted")
    assert "Resuming from step 4..." in capsys.readouterr().err
    for key, weight in whole["weights"]["projector"].items():
        assert torch.equal(parted["weights"]["projector"][key], weight), key
    for state in (whole["state"], parted["state"]):
        state.pop("train_seconds")
    assert parted["state"] == whole["state"]

    assert main(["eval", "--device=cpu", f"checkpoint={folder}/final.pt", "scoring=ours", "output=rows.json"]) == 0
    (row,) = json.loads(Path("rows.json").read_text())
    assert row["wer"] == whole["state"]["history"][-1]["wer"]
    assert row["loss"] == pytest.approx(whole["state"]["history"][-1]["loss"], rel=1e-5)

    rows = read_lines(Path("whole/transcription/transcripts.jsonl"))
    (written,) = (row["hypothesis"] for row in rows if row["name"] == "dev0.flac")
    recognizer = Recognizer(folder / "final.pt", "cpu", decoding=Decoding(max_new_tokens=20, loop_guard=False))
    assert recognizer.transcribe(corpus / "dev0.flac").text == written
