"""`ta data preview` shows what training really gets: the same draws, samples, tokens and mask."""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from spoken import make_corpus, write_corpus

import tiny_models as make
from clips import read_lines, write_manifest
from tiny_audio.cli import main
from tiny_audio.cli.data import configure, parse_preview
from tiny_audio.config import PROJECTORS, ModelConfig
from tiny_audio.data.loader import ClipDataset
from tiny_audio.data.plan import SamplingPlan
from tiny_audio.inspection.check import open_role
from tiny_audio.inspection.preview import AUDIO, PROMPT, TAUGHT, preview, projector_of
from tiny_audio.model.projectors import build_projector
from tiny_audio.prompt import Prompt

CLIPS = 16  # as many as there are: each is drawn once


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def settings(tmp_path) -> list[str]:
    train, dev = make_corpus(tmp_path / "corpus", train=CLIPS, dev=4)
    for row in train:
        row["text"] = row["text"].upper() + "!"
    (tmp_path / "corpus/train007.wav").write_bytes(b"")
    return write_corpus(tmp_path / "corpus", train, dev)


def test_it_is_what_training_gets(settings, tiny_models):
    """Draws, samples, spectrogram, tokens and mask, against the parts that a step is made of."""
    settings = [*settings, f"model.encoder={tiny_models.glm_asr}", f"model.decoder={tiny_models.qwen3}"]
    config = configure(parse_preview([*settings, "training.batch_size=4"]))
    config.model.projector_config.hidden_dim = 64
    clips = preview(config, CLIPS)
    assert [clip.skipped and clip.name for clip in clips if clip.skipped] == ["train007.wav"]

    model = make.build(tiny_models, "mlp")
    sources = [one.source for one in open_role(config, "train")]
    dataset = ClipDataset(sources, model.decoder.prompt.target_ids, config.data)
    plan = SamplingPlan([source.durations for source in sources], [1.0], 4, config.training.seed)
    shown = iter([clip for clip in clips if not clip.skipped])
    for number in range(CLIPS // 4):
        batch = dataset.__getitems__(plan.batch(number))
        frames, lengths = model.encode(batch)
        _, sequences, _ = model.embed(frames, lengths, batch.target_ids)
        starts = np.cumsum([0, *sequences.lengths]).tolist()
        audio = set(sequences.audio_positions.tolist())
        taught = {position + 1 for position in sequences.predict_positions.tolist()}
        mels = model.encoder.log_mel(*model.encoder.window(batch.waveforms, batch.num_samples))
        for i, clip in enumerate(next(shown) for _ in range(len(batch))):
            assert (clip.name, clip.draw, clip.taught) == (batch.names[i], batch.draws[i], batch.transcripts[i])
            assert torch.equal(torch.from_numpy(clip.waveform), batch.waveforms[i, : clip.num_samples])
            assert clip.num_encoder_frames == lengths[i]
            torch.testing.assert_close(torch.from_numpy(clip.mel), mels[i, :, : clip.num_mel_frames])
            for position, token in enumerate(clip.tokens, starts[i]):
                part = AUDIO if position in audio else TAUGHT if position in taught else PROMPT
                assert token.part == part
                assert token.id is None if part == AUDIO else token.id == int(sequences.token_ids[position])
            assert len(clip.tokens) == sequences.lengths[i]
            assert clip.num_audio_tokens == sum(token.part == AUDIO for token in clip.tokens)
    assert next(shown, None) is None


def test_raw_and_taught_stand_side_by_side(settings, capsys):
    assert main(["data", "preview", *settings, "--clips", "3"]) == 0
    out = capsys.readouterr().out
    assert out.count("  raw     ") == 3
    raw = re.search(r"  raw     (.*)\n", out)[1]
    assert raw.isupper()
    assert f"  taught  {raw.lower().rstrip('!')[:20]}" in out
    assert "3 clips, all tokens decode to their transcript." in out
    assert max(map(len, out.splitlines())) <= 80


def test_the_folder_holds_sound_page_and_tokens(settings, tmp_path, capsys):
    assert main(["data", "preview", *settings, "--clips", str(CLIPS), "output=look"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Page: look/index.html"
    rows = read_lines(Path("look/clips.jsonl"))
    page = Path("look/index.html").read_text()
    assert len(rows) == CLIPS
    for row in rows:
        if row["skipped"]:
            assert row["name"] == "train007.wav"
            assert "decode_error" in row["skipped"]
            assert row["wav"] is None
            continue
        wave, rate = soundfile.read(f"look/{row['wav']}", dtype="float32")
        original, _ = soundfile.read(tmp_path / "corpus" / row["name"], dtype="float32")
        assert rate == 16_000
        assert len(wave) == row["num_samples"] == -(-len(original) // 1280) * 1280
        assert np.array_equal(wave[: len(original)], original)
        assert row["raw"] == row["taught"].upper() + "!"
        parts = [token["part"] for token in row["tokens"]]
        assert [part for part, _ in groupby(parts)] == ["prompt", "audio", "prompt", "taught"]
        assert parts.count("audio") == row["num_audio_tokens"] == (len(original) + 319) // 1280
        assert f'src="{row["wav"]}"' in page
        assert row["given_back"]
    assert page.count("data:image/png;base64,") == sum(not row["skipped"] for row in rows) > CLIPS // 2
    assert "<script" not in page


def test_a_context_is_shown_where_a_draw_is_read_with_it(settings, capsys):
    rows = read_lines(Path("corpus/train.jsonl"))
    write_manifest(Path("corpus/train.jsonl"), [{**row, "context": f"Said by {row['speaker']}"} for row in rows])
    typed = ["data", "preview", *settings, "data.context_dropout=0.5", "--clips", str(CLIPS), "output=look"]
    assert main(typed) == 0
    out, page = capsys.readouterr().out, Path("look/index.html").read_text()
    clips = read_lines(Path("look/clips.jsonl"))
    known = [clip for clip in clips if clip["context"]]
    assert CLIPS // 5 < len(known) < 4 * CLIPS // 5
    for clip in clips:
        text = "".join(token["text"] for token in clip["tokens"] or () if token["part"] == "prompt")
        assert (f"Context: {clip['context']}" in text) == bool(clip["context"])
    assert out.count("context said by s") == page.count('<span class="name">context</span>') == len(known)


def test_tokens_that_mean_something_else_are_flagged(settings, monkeypatch, capsys):
    right = Prompt.encode
    monkeypatch.setattr(Prompt, "encode", lambda self, text: right(self, text.replace("river", "liver")))
    Path("corpus/train.jsonl").write_text(
        "".join(
            json.dumps({**json.loads(line), "text": "by the river"}) + "\n"
            for line in Path("corpus/train.jsonl").read_text().splitlines()
        )
    )
    assert main(["data", "preview", *settings, "--clips", "2", "output=look"]) == 0
    out = capsys.readouterr().out
    assert out.count("the target tokens decode to: by the liver") == 2
    assert "2 whose tokens decode to another text" in out
    assert "by the liver" in Path("look/index.html").read_text()


@pytest.mark.parametrize("kind", sorted(PROJECTORS))
def test_audio_tokens_are_counted_without_weights(kind):
    config = ModelConfig(projector_type=kind)
    real = build_projector(kind, config.projector_config, 64, 64)
    light = projector_of(config)
    assert [light.num_tokens(n) for n in range(1, 1500, 7)] == [real.num_tokens(n) for n in range(1, 1500, 7)]
    assert all(weight.is_meta for weight in light.parameters())


def test_an_encoder_that_is_not_here_only_changes_the_picture(settings, capsys):
    assert main(["data", "preview", *settings, "model.encoder=not/here", "--clips", "1", "output=look"]) == 0
    assert "Spectrograms are shown with 128 mel bins: model.encoder=not/here" in capsys.readouterr().err
