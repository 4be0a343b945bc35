"""What ships with the package: of the real classes, small, and good enough to learn from."""

from __future__ import annotations

import json

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GlmAsrEncoder, Qwen3ForCausalLM

from clips import read_lines
from runs import run_ta
from tiny_audio.audio import load_audio
from tiny_audio.data.packed import recording_at
from tiny_audio.pocket import DECODER_DIR, ENCODER_DIR, POCKET_DIR, SPEECH_DIR
from tiny_audio.text import clean_transcript


def rows(split: str) -> list[dict]:
    return read_lines(SPEECH_DIR / f"{split}.jsonl")


def test_models_and_speech_are_small_enough_to_ship():
    assert sum(path.stat().st_size for path in POCKET_DIR.rglob("*") if path.is_file()) < 32e6


def test_models_are_of_the_real_classes():
    assert AutoConfig.from_pretrained(ENCODER_DIR).model_type == "glmasr_encoder"
    assert isinstance(GlmAsrEncoder.from_pretrained(ENCODER_DIR), GlmAsrEncoder)
    assert isinstance(AutoModelForCausalLM.from_pretrained(DECODER_DIR), Qwen3ForCausalLM)
    tokenizer = AutoTokenizer.from_pretrained(DECODER_DIR)
    assert tokenizer.eos_token == "<|im_end|>"
    for text in ("one of the old men", "Grüße, 12:30!"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]).strip() == text


def test_splits_share_no_sentence_and_no_voice():
    splits = {split: rows(split) for split in ("train", "dev", "test")}
    assert {split: len(found) for split, found in splits.items()}["dev"] == 200
    assert len(splits["train"]) >= 3000
    for key in ("text", "speaker"):
        values = [{row[key] for row in found} for found in splits.values()]
        assert sum(map(len, values)) == len(set.union(*values)), key


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_manifests_tell_the_truth(split):
    for row in rows(split)[:: 40 if split == "train" else 5]:
        assert len(load_audio(recording_at(SPEECH_DIR / row["audio"]))) / 16_000 == pytest.approx(
            row["duration"], abs=0.01
        )
        assert clean_transcript(row["text"]) == row["text"]
    assert all(recording_at(SPEECH_DIR / row["audio"]) for row in rows(split))


def test_the_quick_test_learns_and_its_checkpoint_transcribes(tmp_path):
    """The command of the README on the bundled models, and `ta infer` with what came out."""
    arguments = ["data.max_samples=100", "training.max_steps=10", "training.eval_steps=5", "data.max_eval_samples=20"]
    status, log = run_ta(["train", "experiment=quickstart", *arguments], tmp_path)
    assert status == 0, log
    state = json.loads((tmp_path / "outputs/quickstart/checkpoints/training_state.json").read_text())
    losses = {row["step"]: row["loss"] for row in state["history"]}
    assert list(losses) == [0, 5, 10]
    assert losses[10] < losses[0] - 0.3
    recording = SPEECH_DIR / rows("test")[0]["audio"]
    command = ["infer", "checkpoint=outputs/quickstart/checkpoints/final.pt", f"audio={recording}"]
    status, transcript = run_ta(command, tmp_path)
    assert status == 0
    assert transcript.strip()
