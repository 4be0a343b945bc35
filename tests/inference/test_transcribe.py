"""Inference: from a checkpoint that a run left to transcripts, alone, in batches, and in pieces."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

import tiny_models as make
from clips import write_bad_files
from runs import run_ta
from tiny_audio.audio import load_audio
from tiny_audio.cli import main
from tiny_audio.errors import UserError
from tiny_audio.inference import Recogniser, transcribe_files
from tiny_audio.inference.transcribe import split_long


@pytest.fixture(scope="module")
def checkpoint(run_settings, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    status, log = run_ta(["train", *run_settings, "training.max_steps=1"], folder)
    assert status == 0, log
    return folder / "outputs/transcription/checkpoints/final.pt"


@pytest.fixture(scope="module")
def recogniser(checkpoint) -> Recogniser:
    return Recogniser(checkpoint, "cpu")


def test_three_lines_of_python(recogniser, corpus):
    from_file = recogniser.transcribe(corpus / "dev0.flac")
    assert from_file == recogniser.transcribe(load_audio(corpus / "dev0.flac"))
    assert from_file


def test_a_recording_transcribes_the_same_alone_and_in_any_batch(recogniser, corpus):
    waveforms = [load_audio(path) for path in sorted(corpus.glob("dev*.flac"))]
    together = recogniser.transcribe_batch(waveforms)
    assert together == [recogniser.transcribe(waveform) for waveform in waveforms]
    assert len(set(together)) > 1


def test_a_long_recording_is_cut_at_its_quietest_place():
    rng = np.random.default_rng(0)
    waveform = (rng.standard_normal(70 * 16_000) * 0.1).astype(np.float32)
    for second in (25, 48):
        waveform[second * 16_000 : second * 16_000 + 8000] = 0
    pieces = split_long(waveform)
    assert np.array_equal(np.concatenate(pieces), waveform)
    edges = np.cumsum([len(piece) for piece in pieces[:-1]]) / 16_000
    assert 25 <= edges[0] <= 25.5
    assert 48 <= edges[1] <= 48.5
    assert max(map(len, pieces)) <= 30 * 16_000


def test_every_bad_recording_gets_one_line_and_the_others_a_transcript(checkpoint, corpus, tmp_path):
    bad = write_bad_files(tmp_path)
    stereo = np.repeat(load_audio(corpus / "dev0.flac")[::2, None], 2, axis=1)
    soundfile.write(tmp_path / "stereo8k.mp3", stereo, 8000, format="MP3")
    names = [*bad, "stereo8k.mp3"]
    found = {
        Path(t.path).name: t for t in transcribe_files(str(checkpoint), [str(tmp_path / n) for n in names], "cpu", 4)
    }
    assert list(found) == names
    # What cannot be told from a whole file: cut short, but decodable.
    fine = {"stereo8k.mp3", "cut.wav", "cut.mp3", "long.flac"}
    for name, item in found.items():
        if name in fine:
            assert item.error is None
            assert item.text
        elif name == "silence.wav":
            assert (item.error, item.text) == (None, "")
        else:
            assert item.error is not None
            assert "\n" not in item.error
    assert found["long.flac"].seconds == 45


def test_command_line(checkpoint, corpus, capsys):
    one = str(corpus / "dev0.flac")
    assert main(["infer", f"checkpoint={checkpoint}", f"audio={one}", "device=cpu"]) == 0
    transcript = capsys.readouterr().out
    assert transcript.count("\n") == 1
    assert main(["infer", f"checkpoint={checkpoint}", f"audio={one},{corpus / 'dev1.flac'}", "device=cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{one}\t{transcript.strip()}"
    assert len(lines) == 2


def test_a_checkpoint_of_another_projector_is_refused(checkpoint, tmp_path):
    import torch

    content = torch.load(checkpoint, weights_only=True)
    content["weights"]["projector"]["linear_1.weight"] = torch.zeros(3, 3)
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"holds another projector: linear_1\.weight is \(3, 3\) there and \(64, 256\)"):
        Recogniser(tmp_path / "other.pt", "cpu")


def test_a_checkpoint_cut_in_half_is_one_line(checkpoint, corpus, tmp_path, capsys):
    (tmp_path / "half.pt").write_bytes(checkpoint.read_bytes()[:5000])
    assert main(["infer", f"checkpoint={tmp_path / 'half.pt'}", f"audio={corpus / 'dev0.flac'}"]) == 2
    error = capsys.readouterr().err.strip()
    assert "is damaged or not a checkpoint" in error
    assert "\n" not in error


def test_models_may_have_moved_but_not_changed(checkpoint, tiny_models, corpus, tmp_path):
    encoder = shutil.copytree(tiny_models.glm_asr, tmp_path / "encoder")
    decoder = make.save_qwen3(tmp_path / "decoder", seed=1)
    moved = Recogniser(checkpoint, "cpu", encoder=str(encoder))
    assert moved.transcribe(corpus / "dev0.flac") == Recogniser(checkpoint, "cpu").transcribe(corpus / "dev0.flac")
    with pytest.raises(UserError, match=r"was trained with model\.decoder=.*, and this run has .*decoder"):
        Recogniser(checkpoint, "cpu", decoder=str(decoder))


def test_pieces_are_read_a_few_at_a_time_with_the_same_result(recogniser):
    rng = np.random.default_rng(0)
    long = (rng.standard_normal(65 * 16_000) * 0.1).astype(np.float32)
    waveforms = [long, long[:20_000]]
    assert recogniser.transcribe_batch(waveforms, batch_size=1) == recogniser.transcribe_batch(waveforms, batch_size=9)


@pytest.mark.parametrize("samples", [np.zeros((100, 2), np.float32), np.zeros(100, np.int16)])
def test_samples_of_another_shape_or_type_are_refused(recogniser, samples):
    with pytest.raises(ValueError, match="samples must be floats"):
        recogniser.transcribe(samples)
