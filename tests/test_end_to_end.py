"""The command line, from checkpoints in the hub's layout to transcripts, and what it says of bad data."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import soundfile

from clips import read_lines, write_bad_files
from runs import run_ta
from tiny_audio.cli import main


def test_default_experiment_on_checkpoints_in_the_hub_layout(run_settings, tmp_path):
    """The default path: `experiment=transcription`, with only names and sizes overridden."""
    status, log = run_ta(["train", *run_settings], tmp_path)
    assert status == 0, log
    wanted = [
        "[INFO] Loading GLM-ASR encoder",
        "[INFO] Loading Qwen3 decoder",
        "[INFO] Initializing MLP projector...",
        "[INFO] Trainable parameters: 19.6K",
        "[INFO] Frozen parameters: 198.7K",
        "[INFO] Loading dataset...",
        "[INFO] Starting training...",
        "Step 1/4: loss=",
        "Step 4/4: loss=",
        "[INFO] Training completed!",
        "[INFO] Final WER: ",
        "[INFO] Best checkpoint: outputs/transcription/checkpoints/checkpoint-step-4.pt (WER: ",
    ]
    positions = [log.find(text) for text in wanted]
    assert -1 not in positions, log
    assert positions == sorted(positions)
    assert "eval_loss=" in log.split("Step 4/4:")[1].splitlines()[0]


def test_whisper_encoder_by_name(run_settings, tiny_models, tmp_path):
    chosen = [f"model.encoder={tiny_models.whisper}", "model.encoder_window=30s", "training.max_steps=1"]
    status, log = run_ta(["train", *run_settings, *chosen], tmp_path)
    assert status == 0, log
    assert "[INFO] Loading Whisper encoder" in log


def test_default_configuration_without_a_network_names_what_cannot_be_fetched(tmp_path):
    status, log = run_ta(["train", "experiment=transcription"], tmp_path)
    assert status == 2
    for corpus in ("openslr/librispeech_asr", "speechcolab/gigaspeech"):
        assert f"Could not fetch the dataset {corpus}: " in log
    last = log.strip().splitlines()[-1]
    assert last.startswith("ta train: error: 6 of the corpora and models cannot be used (see above)")
    assert "Traceback" not in log


def test_bad_recordings_are_skipped_counted_and_named(run_settings, corpus, tmp_path):
    """Every row of the table in docs/data.md, in the training set of a run."""
    bad = write_bad_files(tmp_path / "bad")
    stereo = (np.random.default_rng(0).standard_normal((16_000, 2)) * 0.1).astype(np.float32)
    soundfile.write(tmp_path / "bad/stereo8k.mp3", stereo, 8000, format="MP3")
    shutil.copy(corpus / "train1.flac", tmp_path / "bad/untold.flac")
    seconds = {"long.flac": 45.0, "short.wav": 0.01, "header_only.wav": 0.0}
    said = [{"audio": name, "text": "one two", "duration": seconds.get(name, 2.0)} for name in bad]
    said += [
        {"audio": "stereo8k.mp3", "text": "one two", "duration": 2.0},
        {"audio": "untold.flac", "text": " ?! ", "duration": 1.0},
    ]
    (tmp_path / "bad/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    arguments = [
        "train",
        *run_settings,
        f"data.datasets=[{{path: {corpus}/train.jsonl, weight: 3}}, {{path: {tmp_path}/bad/train.jsonl, weight: 2}}]",
        "data.max_skipped_share=0.9",
        "training.max_steps=8",
        "training.eval_steps=8",
    ]
    status, log = run_ta(arguments, tmp_path)
    assert status == 0, log
    rows = read_lines(tmp_path / "outputs/transcription/skipped.jsonl")
    assert {row["name"]: row["reason"] for row in rows} == bad | {"untold.flac": "empty_text"}
    assert len(rows) == len(bad) + 1, "each clip once"
    assert "clips skipped: " in log
    assert "[WARN] Skipped nan.wav of " in log or "[WARN] Further skipped clips are only written to" in log

    strict = tmp_path / "strict"
    strict.mkdir()
    status, log = run_ta([argument for argument in arguments if "max_skipped" not in argument], strict)
    assert status == 2
    assert "more than data.max_skipped_share=0.2 allows" in log or "could be used" in log


def test_unreadable_evaluation_clips_count_as_errors(run_settings, trained, corpus, tmp_path):
    """A set does not become easier by losing clips: what was said in them counts as deleted."""
    rows = read_lines(corpus / "dev.jsonl")
    for row in rows:
        row["audio"] = str(corpus / row["audio"])
    rows.append({"audio": "gone.flac", "text": "one two three four five six seven", "duration": 2.0})
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [*run_settings, "training.max_steps=1", f"data.eval_datasets=[{{path: {tmp_path}/dev.jsonl}}]"]
    status, log = run_ta(["train", *settings], tmp_path)
    assert status == 0, log
    with_missing = json.loads((tmp_path / "outputs/transcription/checkpoints/training_state.json").read_text())
    plain = json.loads((trained.parent / "training_state.json").read_text())
    words = sum(len(row["text"].split()) for row in rows[:-1])
    errors = plain["history"][-1]["wer"] * words
    assert with_missing["history"][-1]["wer"] == pytest.approx((errors + 7) / (words + 7))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["training.batch_size=0"], "training.batch_size must be at least 1, got 0."),
        (["hardware.device=cuda:99"], "hardware.device=cuda:99: "),
        (["data.datasets=[{path: nowhere.jsonl}]"], "nowhere.jsonl"),
        (["model.encoder=./nowhere"], "model.encoder=./nowhere: there is no such folder."),
        (["training.resume_from_checkpoint=nowhere.pt"], "checkpoint nowhere.pt does not exist."),
        (["model.use_lora=true", "model.lora_config.target_modules=[q_prj]"], "this decoder has no q_prj; there are "),
        (["paths.output_dir=/proc/nothing"], "paths.output_dir: "),
    ],
)
def test_mistakes_get_one_line_and_status_2(run_settings, arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *run_settings, *arguments]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[INFO]")]
    assert len(error) == 1, error
    assert error[0].startswith("ta train: error: ")
    assert message in error[0]
