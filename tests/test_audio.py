from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperFeatureExtractor

from clips import tone, write, write_bad_files
from tiny_audio import audio, spooled
from tiny_audio.audio import (
    AudioError,
    check_clip,
    header_seconds,
    is_cut_short,
    is_silent,
    load_audio,
    load_long_audio,
    mix_down,
    pad_waveforms,
)
from tiny_audio.lengths import SAMPLE_RATE
from tiny_audio.mel import LogMel

FORMATS = {
    "wav": {"format": "WAV"},
    "float.wav": {"format": "WAV", "subtype": "FLOAT"},
    "flac": {"format": "FLAC"},
    "mp3": {"format": "MP3"},
    "ogg": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}
OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)  # the codec knows no others


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("kind", "rate"),
    [
        (kind, rate)
        for kind in FORMATS
        for rate in (8_000, 16_000, 22_050, 44_100, 48_000)
        if kind != "opus" or rate in OPUS_RATES
    ],
)
def test_every_format_becomes_the_same_waveform(tmp_path: Path, kind: str, rate: int, channels: int) -> None:
    file = tmp_path / f"clip.{kind}"
    soundfile.write(file, tone(1.0, rate, channels), rate, **FORMATS[kind])
    waveform = load_audio(file)
    assert waveform.dtype == np.float32
    assert waveform.shape == (SAMPLE_RATE,)
    expected = tone(1.0)
    inner = slice(1600, -1600)
    assert np.corrcoef(waveform[inner], expected[inner])[0, 1] > 0.98
    assert np.array_equal(load_audio(file.read_bytes()), waveform)
    assert header_seconds(file) == pytest.approx(1.0, abs=0.001)


def test_channels_are_averaged(tmp_path: Path) -> None:
    file = tmp_path / "stereo.wav"
    soundfile.write(file, np.stack([tone(0.5), 0.5 * tone(0.5)], axis=1), SAMPLE_RATE, subtype="FLOAT")
    assert np.array_equal(load_audio(file), 0.75 * tone(0.5))


def reason(source: Path | bytes, expected: float) -> str:
    """Why a recording cannot be used, in the order in which the loader looks at it; empty if it can."""
    try:
        waveform = load_audio(source)
        if is_cut_short(len(waveform) / SAMPLE_RATE, expected):
            return "duration_mismatch"
        check_clip(len(waveform), is_silent(waveform), 0.1, 30.0)
    except AudioError as error:
        return error.reason
    return ""


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_mixing_down_is_the_mean_over_channels(channels: int) -> None:
    samples = np.random.default_rng(0).standard_normal((1000, channels)).astype(np.float32)
    mixed = mix_down(samples)
    assert mixed.dtype == np.float32
    if channels <= 2:
        assert np.array_equal(mixed, samples.mean(axis=1))
    np.testing.assert_allclose(mixed, samples.mean(axis=1), atol=1e-6)
    samples[5, -1], samples[6, 0] = np.nan, np.inf
    assert np.flatnonzero(~np.isfinite(mix_down(samples))).tolist() == [5, 6]


def test_bad_files_are_told_apart(tmp_path: Path) -> None:
    due = write_bad_files(tmp_path)
    lengths = {"header_only.wav": 0.0, "short.wav": 0.01, "long.flac": 45.0}
    found = {name: reason(tmp_path / name, lengths.get(name, 2.0)) for name in due}
    assert found == due
    assert reason(b"", 2.0) == "decode_error"
    assert reason(b"RIFF", 2.0) == "decode_error"
    stereo = tmp_path / "stereo.mp3"
    soundfile.write(stereo, tone(2.0, 8_000, 2), 8_000, format="MP3")
    assert reason(stereo, 2.0) == ""


def test_a_long_recording_has_the_same_samples_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resampled, of channels that cancel each other out, and of integers that were written as floats."""
    monkeypatch.setattr(audio, "SPOOLED_SECONDS", 1.0)
    one = tone(9.0, 44_100)
    for name, samples in {"plain": one, "against": np.stack([one, -one], 1), "whole": np.rint(one * 30_000)}.items():
        file = tmp_path / f"{name}.wav"
        soundfile.write(file, samples, 44_100, subtype="FLOAT")
        in_memory, in_file = load_audio(file), load_long_audio(file)
        assert isinstance(in_file, spooled.SpooledSamples)
        assert len(in_file) == len(in_memory)
        assert np.array_equal(in_file[:], in_memory)
        assert np.array_equal(in_file[777:-5], in_memory[777:-5])
        assert np.array_equal(np.concatenate([*spooled.blocks(in_file, 1000)]), in_memory)
    short = tmp_path / "short.wav"
    soundfile.write(short, one[:20_000], 44_100)
    assert isinstance(load_long_audio(short), np.ndarray)
    one[-100] = np.nan
    soundfile.write(file, one, 44_100, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN"):
        load_long_audio(file)


def test_no_room_for_a_long_recording_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: spooled.SpooledSamples, samples: np.ndarray) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audio, "SPOOLED_SECONDS", 1.0)
    monkeypatch.setattr(spooled.SpooledSamples, "append", full)
    soundfile.write(tmp_path / "long.wav", tone(3.0), SAMPLE_RATE)
    with pytest.raises(AudioError, match=r"needs room for its samples \(No space left on device\); TMPDIR"):
        load_long_audio(tmp_path / "long.wav")


def test_a_header_tells_the_length_that_was_announced(tmp_path: Path) -> None:
    write_bad_files(tmp_path)
    for name, seconds in (
        ("cut.flac", 2.0),
        ("cut.wav", 2.0),
        ("cut.mp3", 2.0),
        ("header_only.wav", 0.0),
        ("long.flac", 45.0),
    ):
        assert header_seconds(tmp_path / name) == pytest.approx(seconds, abs=0.001), name
    for name, due in (
        ("absent.wav", "missing"),
        ("empty.wav", "decode_error"),
        ("page.flac", "decode_error"),
    ):
        with pytest.raises(AudioError) as caught:
            header_seconds(tmp_path / name)
        assert caught.value.reason == due


def test_a_streamed_wav_has_the_length_that_is_there(tmp_path: Path) -> None:
    file = write(tmp_path / "clip.wav", 1.0)
    data = bytearray(file.read_bytes())
    place = data.index(b"data") + 4
    data[4:8] = data[place : place + 4] = b"\xff\xff\xff\xff"
    assert header_seconds(bytes(data)) == pytest.approx(1.0)


def test_tolerance_for_short_clips() -> None:
    assert not is_cut_short(1.6, 2.0)
    assert is_cut_short(1.4, 2.0)
    assert not is_cut_short(18.1, 20.0)
    assert is_cut_short(17.9, 20.0)
    assert not is_cut_short(25.0, 20.0)


def test_padding_to_the_longest_clip() -> None:
    waveforms, lengths = pad_waveforms([tone(0.1), tone(1.0), tone(0.08)])
    assert lengths.tolist() == [1600, 16_000, 1280]
    assert waveforms.shape == (3, 16_640)
    assert torch.equal(waveforms[0, :1600], torch.from_numpy(tone(0.1)))
    assert waveforms[0, 1600:].abs().max() == 0
    empty, none = pad_waveforms([])
    assert empty.shape == (0, 0)
    assert none.shape == (0,)
    assert none.dtype == torch.int64


@pytest.mark.parametrize("num_mel_bins", [80, 128])
def test_mel_of_a_batch_equals_whispers_of_each_clip_alone(num_mel_bins: int) -> None:
    rng = np.random.default_rng(0)
    clips = [tone(1.3), tone(0.08) * 0.01, rng.standard_normal(40_000).astype(np.float32) * 0.1, tone(3.0)]
    waveforms, lengths = pad_waveforms(clips)
    mel = LogMel(num_mel_bins)
    together = mel(waveforms, lengths)
    assert together.shape == (4, num_mel_bins, waveforms.shape[1] // 160)
    extractor = WhisperFeatureExtractor(feature_size=num_mel_bins)
    for row, length in enumerate(lengths.tolist()):
        alone = mel(waveforms[row : row + 1, :length], lengths[row : row + 1])[0]
        frames = length // 160
        torch.testing.assert_close(together[row, :, :frames], alone, atol=1e-5, rtol=0)
        assert together[row, :, frames:].abs().sum() == 0
        theirs = extractor(
            waveforms[row, :length].numpy(), sampling_rate=SAMPLE_RATE, padding=False, return_tensors="pt"
        )
        torch.testing.assert_close(alone, theirs["input_features"][0], atol=1e-4, rtol=0)
