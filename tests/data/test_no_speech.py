"""Clips without speech: made from seed and row alone, drawn in their share, and nothing to write."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from clips import read_lines, write, write_manifest
from tiny_audio.cli import main
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data.augment import Augmenter
from tiny_audio.data.features import clip_keys
from tiny_audio.data.loader import ClipDataset
from tiny_audio.data.no_speech import KINDS, LEVEL_DB, NUM_CLIPS, no_speech_source
from tiny_audio.data.plan import Draw, SamplingPlan
from tiny_audio.data.sources import Source, open_source
from tiny_audio.errors import ConfigError


def corpus(folder: Path, weight: float = 1.0) -> Source:
    rows = [{"audio": write(folder / f"{i}.wav", 1 + i / 10).name, "text": f"clip {i}"} for i in range(8)]
    return open_source(
        DatasetConfig(path=str(write_manifest(folder / "all.jsonl", rows)), weight=weight), DataConfig(), folder
    )


def kind(source: Source, row: int) -> str:
    return source.names[row].split()[0]


def test_the_bank_is_a_function_of_the_seed(tmp_path: Path) -> None:
    sources = [corpus(tmp_path)]
    one, again, other = (no_speech_source(sources, DataConfig(no_speech_share=0.1), seed) for seed in (1, 1, 2))
    assert len(one) == NUM_CLIPS
    assert list(one.texts) == [""] * NUM_CLIPS
    assert one.durations.tolist() == again.durations.tolist() != other.durations.tolist()
    keys = [clip_keys(source.recording_versions(range(NUM_CLIPS))) for source in (one, again, other)]
    assert keys[0] == keys[1]
    assert len(set(keys[0] + keys[2])) == 2 * NUM_CLIPS
    for row in (0, 7, 200):
        assert np.array_equal(one.read(row), again.read(row))
    assert not np.array_equal(one.read(12)[:1600], other.read(12)[:1600])


def test_what_the_clips_hold(tmp_path: Path) -> None:
    source = no_speech_source([corpus(tmp_path)], DataConfig(no_speech_share=0.1), 0)
    assert {kind(source, row) for row in range(NUM_CLIPS)} == set(KINDS)
    seconds = np.array([len(source.read(row)) / 16_000 for row in range(40)])
    assert seconds == pytest.approx(source.durations[:40], abs=1e-4)
    assert source.durations.max() == pytest.approx(10, abs=0.5), "also beside a corpus of short clips"
    for row in range(40):
        samples = source.read(row)
        level = 20 * np.log10(np.sqrt(np.square(samples).mean()) + 1e-12)
        if kind(source, row) == "silence":
            assert not samples.any()
        elif kind(source, row) == "dither":
            assert set(np.unique(samples * 2**15)) <= {-1, 0, 1}
        else:
            assert LEVEL_DB[0] - 1 < level < LEVEL_DB[1] + 1
        assert np.abs(samples).max() <= 1
    power = {name: np.zeros(2) for name in ("white", "pink", "hum")}
    for row in (row for row in range(40) if kind(source, row) in power):
        spectrum = np.square(np.abs(np.fft.rfft(source.read(row)[:1600])))  # 10 Hz a line
        power[kind(source, row)] += np.array([spectrum[4:50].mean(), spectrum[400:].mean()]) / spectrum.mean()
    low_to_high = {name: low / high for name, (low, high) in power.items()}
    assert 0.5 < low_to_high["white"] < 2
    assert low_to_high["pink"] > 10
    assert low_to_high["hum"] > 100


def test_recordings_of_noise_are_every_second_clip(tmp_path: Path) -> None:
    noise = tmp_path / "noise"
    write(noise / "a.wav", 3.0), write(noise / "b.wav", 0.5)
    data = DataConfig(no_speech_share=0.1, noise_path=str(noise))
    source = no_speech_source([corpus(tmp_path / "speech")], data, 0)
    assert [kind(source, row) == "recording" for row in range(NUM_CLIPS)] == [False, True] * (NUM_CLIPS // 2)
    assert {kind(source, row) for row in range(0, NUM_CLIPS, 2)} == set(KINDS)
    keys = clip_keys(source.recording_versions(range(8)))
    write(noise / "a.wav", 3.1), write(noise / "b.wav", 0.6)
    changed = clip_keys(no_speech_source([corpus(tmp_path / "speech")], data, 0).recording_versions(range(8)))
    assert [one == other for one, other in zip(keys, changed, strict=True)] == [True, False] * 4
    (noise / "a.wav").unlink(), (noise / "b.wav").unlink()
    batch = ClipDataset([source], lambda text: [0], DataConfig()).__getitems__([Draw(0, 0, 1)])
    assert [skip.reason for skip in batch.skipped] == ["missing"]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_its_share_of_the_draws_is_the_one_asked_for(temperature: float, tmp_path: Path) -> None:
    data = DataConfig(no_speech_share=0.05, temperature=temperature)
    sources = [corpus(tmp_path / "a", 3.0), corpus(tmp_path / "b", 0.5)]
    sources[1].name = "no_speech"
    bank = no_speech_source(sources, data, 0)
    assert bank.name == "no_speech#2", "a corpus is called no_speech"
    all_three = [*sources, bank]
    plan = SamplingPlan([s.durations for s in all_three], [s.weight for s in all_three], 16, 0, temperature)
    assert plan.shares[2] == pytest.approx(0.05)
    assert plan.shares[0] / plan.shares[1] == pytest.approx(6 ** (1 / temperature))


def test_silence_is_no_fault_where_nothing_is_said(tmp_path: Path) -> None:
    """Augmented or not: only the end of the turn is to be written."""
    source = no_speech_source([corpus(tmp_path)], DataConfig(no_speech_share=0.1), 0)
    augmenter = Augmenter(0, DataConfig())
    for changed in (None, augmenter):
        dataset = ClipDataset([source], lambda text: [*text.encode(), 0], DataConfig(), changed)
        batch = dataset.__getitems__([Draw(row, 0, row) for row in range(20)])
        assert not batch.skipped
        assert [ids.tolist() for ids in batch.target_ids] == [[0]] * 20
        assert batch.waveforms.isfinite().all()
        assert not batch.waveforms[[name.startswith("silence") for name in batch.names]].any()


def test_a_run_counts_them_and_goes_on_to_the_bit(run_settings, tmp_path, monkeypatch, capsys):
    """From recordings and from the cache of encoder outputs, which holds the silent ones too."""
    typed = ["train", *run_settings, "data.no_speech_share=0.25", "training.save_steps=2"]

    def train(name: str, *more: str) -> list[dict[str, float]]:
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / name)
        assert main([*typed, *more]) == 0, capsys.readouterr().err
        rows = read_lines(tmp_path / name / "outputs/transcription/metrics.jsonl")
        kept = ("train/loss", "train/grad_norm", "data/share_no_speech", "data/skipped_clips", "eval/loss", "eval/wer")
        return [{key: row[key] for key in kept if key in row} for row in rows]

    straight = train("straight")
    log = capsys.readouterr().err
    assert "no_speech: 256 clips" in log
    assert "no_speech 25.0%" in log
    (share,) = (row["data/share_no_speech"] for row in straight[-2:] if "data/share_no_speech" in row)
    assert share * 32 in range(1, 32), "counted like any corpus"
    checkpoints = tmp_path / "stopped/outputs/transcription/checkpoints"
    checkpoints.mkdir(parents=True)
    shutil.copy(tmp_path / "straight/outputs/transcription/checkpoints/checkpoint-step-2.pt", checkpoints)
    assert train("stopped") == straight[2:]
    cached = train("cached", "data.cache_features=true")
    for one, other in zip(cached, straight, strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def test_a_limit_for_models_that_have_heard_noise_is_questioned_without_it(run_settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    typed = ["train", *run_settings, "model.search.speech_nats=0.65", "training.max_steps=1"]
    typed += ["model.search.beams=2", "model.search.max_nats=1.5", "training.ctc_loss_weight=0.3"]
    for share, questioned in ((0, True), (0.1, False)):
        assert main([*typed, f"data.no_speech_share={share}", f"paths.output_dir={share}"]) == 0
        assert ("Set model.search.speech_nats=null." in capsys.readouterr().err) == questioned


def test_noise_is_heard_with_either_of_two(tmp_path: Path) -> None:
    assert DataConfig(noise_path="x", no_speech_share=0.1).noise_path == "x"
    with pytest.raises(ConfigError, match=r"x is used with data.augmentation=light or data.no_speech_share only"):
        DataConfig(noise_path="x")
    with pytest.raises(ConfigError, match=r"data.no_speech_share must be at least 0 and below 1, got 1"):
        DataConfig(no_speech_share=1.0)


def test_a_clip_is_a_wav_file(tmp_path: Path) -> None:
    """As whoever plays it expects: `ta data preview`, for one."""
    recording = no_speech_source([corpus(tmp_path)], DataConfig(no_speech_share=0.1), 0).recording(2)
    assert isinstance(recording, bytes)
    assert soundfile.info(io.BytesIO(recording)).samplerate == 16_000
