"""An exported folder writes what its checkpoint writes, elsewhere and here, and says nothing of this machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForMultimodalLM, AutoProcessor

import tiny_audio
from runs import run_ta
from tiny_audio.audio import load_audio
from tiny_audio.cli import main
from tiny_audio.inference import Decoding, Recognizer
from tiny_audio.publish import proof
from tiny_audio.publish.proof import Proof
from tiny_audio.training.checkpoint import load_checkpoint


def train(folder: Path, run_settings: list[str], *more: str) -> Path:
    status, log = run_ta(["train", *run_settings, "training.max_steps=2", *more], folder)
    assert status == 0, log
    return folder / "outputs/transcription/checkpoints/final.pt"


# Few clips: windows of 30 s take twenty times as long as these clips.
IN_WINDOWS = ("model.encoder_window=30s", "training.batch_size=2", "data.max_eval_samples=4")


@pytest.fixture(scope="module")
def windows(run_settings, tmp_path_factory) -> Path:
    """Trained in windows of 30 s, with adapters that have an effect and a CTC head."""
    folder = tmp_path_factory.mktemp("windows")
    ctc = ("training.ctc_warmup_steps=1", "training.ctc_loss_weight=0.3", "training.ctc_min_count=3")
    path = train(folder, run_settings, "model.use_lora=true", *ctc, *IN_WINDOWS)
    saved = load_checkpoint(path)
    for name, weight in saved["weights"]["lora"].items():
        if "lora_B" in name:
            weight.normal_(std=0.3)
    torch.save(saved, folder / "lora.pt")
    return folder / "lora.pt"


@pytest.fixture(scope="module")
def export(windows) -> tuple[Path, str, Proof]:
    """The folder, what was printed, and how it compares with the checkpoint."""
    folder, proofs = windows.parent / "exported", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "prove", lambda *given, prove=proof.prove: proofs.append(prove(*given)) or proofs[0])
        status, printed = run_ta(["export", f"checkpoint={windows}", f"output={folder}", "clips=4"], windows.parent)
    assert status == 0, printed
    return folder, printed, proofs[0]


@pytest.fixture(scope="module")
def exported(export) -> Path:
    return export[0]


def test_plain_transformers_writes_what_the_checkpoint_writes(export):
    _, printed, found = export
    assert "GlmAsrForConditionalGeneration for plain transformers" in printed
    assert "4 of 4 clips have the checkpoint's text" in printed
    assert found.ways["stock"].texts == found.expected
    assert found.ways["stock"].difference < 1e-4
    assert len(set(found.expected)) > 1


def test_it_opens_here_too_with_words(windows, exported, corpus):
    before, after = Recognizer(windows, "cpu"), tiny_audio.load_model(exported, device="cpu")
    recordings = [corpus / f"dev{i}.flac" for i in range(4)]
    assert [one.text for one in after.transcribe(recordings)] == [one.text for one in before.transcribe(recordings)]
    assert after.piece_seconds == before.piece_seconds
    found, expected = (one.transcribe(recordings[0], word_timestamps=True) for one in (after, before))
    assert found == expected
    assert found.segments[0].words or not found.text or "unplaced" in found.segments[0].flags


@torch.inference_mode()
def test_plain_transformers_reads_a_context_as_a_variable_of_its_template(windows, exported, corpus):
    """And as nothing else: what a message says changes nothing."""
    context, waveform = "six, Seven", load_audio(corpus / "dev0.flac")
    unguarded = Decoding(max_new_tokens=10, loop_guard=False)
    ours = Recognizer(windows, "cpu", decoding=unguarded)
    expected = ours.transcribe(waveform, context=context).text
    processor = AutoProcessor.from_pretrained(exported, local_files_only=True)
    model = AutoModelForMultimodalLM.from_pretrained(exported, dtype=torch.float32, local_files_only=True).eval()
    written = []
    for known in (context.lower(), ""):
        message = [{"role": "user", "content": "one two"}]
        text = processor.apply_chat_template(message, tokenize=False, context=known)
        inputs = processor(text=[text], audio=[waveform], sampling_rate=16_000)
        ids = model.generate(**inputs, max_new_tokens=10)
        found = ids[:, inputs["input_ids"].shape[1] :]
        written.append(processor.batch_decode(found, skip_special_tokens=True)[0].strip())
    assert written == [expected, ours.transcribe(waveform).text]
    theirs = tiny_audio.load_model(exported, device="cpu", decoding=unguarded)
    assert theirs.transcribe(waveform, context=context).text == expected


def test_nothing_of_this_machine_is_in_it(exported, windows, corpus, tiny_models):
    places = [str(path) for path in (windows.parent, corpus, tiny_models.qwen3.parent)]
    for file in exported.rglob("*"):
        if file.is_file():
            content = file.read_bytes().decode("latin-1")
            assert not any(place in content for place in places), file


def test_a_fresh_folder_is_asked_for(windows, exported, capsys):
    assert main(["export", f"checkpoint={windows}", f"output={exported}"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_bf16_halves_the_weights(windows, exported, tmp_path):
    assert main(["export", f"checkpoint={windows}", f"output={tmp_path}/half", "clips=0", "dtype=bfloat16"]) == 0
    with safe_open(tmp_path / "half/model.safetensors", "pt") as tensors:
        assert {tensors.get_tensor(name).dtype for name in tensors.keys()} == {torch.bfloat16}  # noqa: SIM118
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tmp_path / "half", exported)]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.05)


def test_bare_clips_are_written_the_same_one_at_a_time_and_it_says_how(trained, tmp_path, capsys):
    assert main(["export", f"checkpoint={trained}", f"output={tmp_path}/out", "clips=2"]) == 0
    out = capsys.readouterr().out
    assert "one bare clip at a time: 2 of 2 clips" in out
    assert "model.encoder_window=30s" in out


def test_whisper_s_encoder_leaves_as_a_native_one(run_settings, tiny_models, corpus, tmp_path, capsys):
    path = train(tmp_path, run_settings, f"model.encoder={tiny_models.whisper}", *IN_WINDOWS)
    assert main(["export", f"checkpoint={path}", f"output={tmp_path}/out", "clips=2"]) == 0
    assert "30 s, as by default: 2 of 2 clips" in capsys.readouterr().out
    found = tiny_audio.load_model(tmp_path / "out", device="cpu").transcribe(corpus / "dev0.flac")
    assert found == Recognizer(path, "cpu").transcribe(corpus / "dev0.flac")


def test_what_has_no_native_class_is_a_folder_that_opens_here(run_settings, corpus, tmp_path, capsys):
    path = train(tmp_path, run_settings, "model.projector_type=mosa", "model.projector_config.expert_dim=16")
    assert main(["export", f"checkpoint={path}", f"output={tmp_path}/out"]) == 0
    assert "because its projector is MOSA; native is mlp alone" in capsys.readouterr().out
    found = tiny_audio.load_model(tmp_path / "out", device="cpu").transcribe(corpus / "dev0.flac")
    assert found == Recognizer(path, "cpu").transcribe(corpus / "dev0.flac")
    texts = [file.read_text() for file in (tmp_path / "out").rglob("*.json")]
    assert len(texts) > 4
    assert not any(str(tmp_path.parent.parent) in text for text in texts), "nothing of this machine is in it"
    assert main(["infer", f"checkpoint={tmp_path}/out", f"audio={corpus}/dev0.flac", "device=cpu"]) == 0
    assert capsys.readouterr().out.strip() == found.text


def test_a_damaged_folder_is_one_line(exported, tmp_path, capsys):
    (tmp_path / "tiny_audio").mkdir()
    (tmp_path / "tiny_audio/model.json").write_text("{}")
    assert main(["infer", f"checkpoint={tmp_path}", "audio=a.wav"]) == 2
    record = json.loads((exported / "tiny_audio/model.json").read_text())
    assert record["provenance"]["trained"] == ["projector", "LoRA"]
    assert np.isfinite(record["provenance"]["step"])
