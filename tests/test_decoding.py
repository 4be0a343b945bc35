"""Recordings as people have them: all of the sound is read, whatever the header says, and nothing more."""

from __future__ import annotations

import contextlib
import io
import logging
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from clips import tone
from encoded import FFMPEG, SNDFILE, encode, with_total_samples, without_xing
from tiny_audio import audio
from tiny_audio.audio import AudioError, Segment, header_seconds, is_silent, load_audio, read_header
from tiny_audio.decoders import Allowance, SndfileDecoder
from tiny_audio.lengths import SAMPLE_RATE

DELAY = 0.15  # seconds that codecs without an index add: their own delay, and the padding of the last frame
KINDS = [*SNDFILE, *FFMPEG]


def rate_of(kind: str) -> int:
    return 48_000 if kind in ("webm", "ac3") else SAMPLE_RATE


def speech(seconds: float, rate: int = SAMPLE_RATE, seed: int = 0) -> np.ndarray:
    """Syllables of noise with pauses: what a codec of variable bit rate spends different rates on."""
    rng, time = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    noise = 0.2 * rng.standard_normal(len(time)) * (np.sin(2 * np.pi * 0.3 * time) > 0)
    return (noise + 0.2 * np.sin(2 * np.pi * 300 * time) * (np.sin(2 * np.pi * 0.7 * time) > 0)).astype(np.float32)


def heard_seconds(data: bytes) -> float:
    return len(load_audio(data)) / SAMPLE_RATE


def best_match(waveform: np.ndarray, expected: np.ndarray) -> float:
    """Correlation of the middle of a recording with what was encoded, wherever in the waveform it is."""
    middle = expected[len(expected) // 3 : 2 * len(expected) // 3]
    place = int(np.correlate(waveform, middle, "valid").argmax())
    return float(np.corrcoef(waveform[place : place + len(middle)], middle)[0, 1])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", FFMPEG)
def test_what_phones_and_browsers_record_is_decoded(kind: str, channels: int, tmp_path: Path) -> None:
    rate = rate_of(kind)
    file = tmp_path / f"clip.{kind}"
    file.write_bytes(encode(kind, tone(3.0, rate, channels), rate))
    waveform = load_audio(file)
    assert len(waveform) / SAMPLE_RATE == pytest.approx(3.0, abs=DELAY)
    assert header_seconds(file) == pytest.approx(len(waveform) / SAMPLE_RATE, abs=0.05)
    assert best_match(waveform, tone(3.0)) > 0.95
    assert np.array_equal(load_audio(file.read_bytes()), waveform)
    assert read_header(file).channels == channels


def test_an_mp3_of_variable_bit_rate_without_its_header_is_read_to_its_end() -> None:
    whole = encode("mp3", speech(20.0))
    data = without_xing(whole)
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        assert file.frames / SAMPLE_RATE < 15, "libsndfile guesses the length by the first frame"
    assert heard_seconds(data) == pytest.approx(20.0, abs=DELAY)
    assert header_seconds(data) == pytest.approx(heard_seconds(data), abs=0.01)
    assert header_seconds(whole) == pytest.approx(20.0, abs=0.001)


@pytest.mark.parametrize("kind", [*SNDFILE, "aac"])
def test_joined_recordings_are_read_one_after_another(kind: str) -> None:
    first, second = encode(kind, speech(4.0)), encode(kind, speech(1.5, seed=1))
    for data, seconds in ((first + second, 5.5), (second + first, 5.5), (first * 2, 8.0), (first * 3, 12.0)):
        assert heard_seconds(data) == pytest.approx(seconds, abs=3 * DELAY)
        if kind != "flac":  # all of a FLAC file would have to be read to find out
            assert header_seconds(data) == pytest.approx(heard_seconds(data), abs=0.1)
    alone, both = load_audio(second), load_audio(first + second)
    assert best_match(both[-len(alone) :], speech(1.5, seed=1)) > 0.5


@pytest.mark.parametrize("kind", ["ac3", "webm", "mka"])
def test_joined_recordings_of_other_containers_are_read_to_the_end(kind: str) -> None:
    whole = encode(kind, tone(2.0, rate_of(kind)), rate_of(kind))
    assert heard_seconds(whole * 3) == pytest.approx(6.0, abs=3 * DELAY)
    assert header_seconds(whole * 3) == pytest.approx(6.0, abs=3 * DELAY)


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "vorbis", "opus"])
def test_joined_recordings_may_have_other_rates_and_channels(kind: str) -> None:
    first = encode(kind, tone(2.0))
    second = encode(kind, np.stack([tone(1.0, 24_000)] * 2, axis=1), 24_000)
    assert heard_seconds(first + second) == pytest.approx(3.0, abs=2 * DELAY)


@pytest.mark.parametrize("total", [0, 1 << 35, (1 << 36) - 1])
def test_a_flac_file_is_read_to_its_end_whatever_length_it_announces(total: int) -> None:
    whole = encode("flac", speech(3.0))
    data = with_total_samples(whole, total)
    assert np.array_equal(load_audio(data), load_audio(whole))
    assert header_seconds(data) == 3.0
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 0x10
    with pytest.raises(AudioError) as caught:
        load_audio(bytes(damaged))
    assert caught.value.reason == "decode_error"


def test_a_wav_file_without_a_length_is_read_to_its_end() -> None:
    data = bytearray(encode("wav", tone(2.0)))
    data[4:8] = data[40:44] = bytes(4)  # what a recorder leaves that was switched off
    assert heard_seconds(bytes(data)) == pytest.approx(2.0)
    assert header_seconds(bytes(data)) == pytest.approx(2.0)


@pytest.mark.parametrize("riff", [True, False])
def test_a_wav_file_that_goes_on_after_its_announced_end_is_read_to_its_end(riff: bool) -> None:
    whole = encode("wav", speech(5.0))
    data = bytearray(whole)
    data[40:44] = (32_000).to_bytes(4, "little")  # one second: what a recorder wrote last before it was switched off
    if riff:
        data[4:8] = (32_036).to_bytes(4, "little")
    assert np.array_equal(load_audio(bytes(data)), load_audio(whole))
    assert header_seconds(bytes(data)) == 5.0
    tagged = whole + b"LIST" + (64_000).to_bytes(4, "little") + bytes(64_000)
    assert heard_seconds(tagged) == 5.0, "what follows is no sound"


def test_eight_channels_are_read() -> None:
    """Each in a plane of its own, of which there are more than PyAV can count."""
    wave = tone(2.0, 48_000)
    file = io.BytesIO()
    with av.open(file, "w", format="ipod") as out:
        stream = out.add_stream("aac", rate=48_000, layout="7.1")
        for start in range(0, len(wave), 1024):
            block = np.repeat(wave[start : start + 1024], 8).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(block, "flt", "7.1")
            frame.sample_rate, frame.pts = 48_000, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert heard_seconds(file.getvalue()) == pytest.approx(2.0, abs=DELAY)


def test_gsm_of_telephones_in_wav_is_decoded() -> None:
    file = io.BytesIO()
    soundfile.write(file, tone(2.0, 8_000), 8_000, format="WAV", subtype="GSM610")
    assert heard_seconds(file.getvalue()) == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("kind", ["aiff", "m4a", "3gp"])
def test_what_is_joined_and_cannot_be_read_is_said(kind: str, notes: list[tuple[str, str]]) -> None:
    if kind == "aiff":
        file = io.BytesIO()
        soundfile.write(file, speech(4.0), SAMPLE_RATE, format="AIFF")
        data = file.getvalue()
    else:
        data = encode(kind, speech(4.0))
    load_audio(data, tell=lambda *note: notes.append(note))
    assert not notes
    load_audio(data * 2, tell=lambda *note: notes.append(note))
    [(note, said)] = notes
    assert note == "unread"
    assert f"of its {2 * len(data):,} bytes belong to no sound that its header announces" in said


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_a_recording_is_that_part_of_the_whole(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"long.{kind}"
    file.write_bytes(encode(kind, tone(9.0, rate_of(kind)), rate_of(kind)))
    whole = load_audio(file)
    for start, seconds in ((0.0, 1.0), (0.3, 1.0), (2.77, 2.0), (6.5, 2.0)):
        part, place = load_audio(Segment(file, start, seconds)), round(start * SAMPLE_RATE)
        assert len(part) == seconds * SAMPLE_RATE
        due = whole[max(place - 40, 0) :]  # Matroska's clock ticks in milliseconds
        errors = [np.abs(part - due[lag : lag + len(part)])[400:-400].max() for lag in range(80)]
        assert min(errors) < 0.02, (start, min(errors))
    assert len(load_audio(Segment(file, 8.0))) / SAMPLE_RATE == pytest.approx(len(whole) / SAMPLE_RATE - 8, abs=0.01)
    assert len(load_audio(Segment(file, 20.0, 1.0))) == 0


def test_a_part_of_joined_recordings_is_counted_from_the_beginning(tmp_path: Path) -> None:
    file = tmp_path / "joined.ogg"
    file.write_bytes(encode("opus", speech(2.0)) + encode("opus", speech(4.0, seed=1)))
    whole = load_audio(file)
    for start in (0.5, 1.5, 3.0):
        part, place = load_audio(Segment(file, start, 1.5)), round(start * SAMPLE_RATE)
        assert np.abs(part - whole[place : place + len(part)])[400:-400].max() < 0.02


# A header is a claim


@pytest.mark.parametrize(("rate", "channels"), [(1, 1), (999, 1), (400_000, 1), (16_000, 255)])
def test_rates_and_channels_that_cannot_be_are_refused(rate: int, channels: int) -> None:
    data = bytearray(encode("wav", tone(1.0)))
    data[22:24] = channels.to_bytes(2, "little")
    data[24:28] = rate.to_bytes(4, "little")
    data[28:32] = (2 * rate * channels).to_bytes(4, "little")
    data[32:34] = (2 * channels).to_bytes(2, "little")
    for read in (load_audio, header_seconds):
        with pytest.raises(AudioError, match=f"says that .* {rate if channels == 1 else channels:,} ") as caught:
            read(bytes(data))
        assert caught.value.reason == "decode_error"


def test_a_small_file_does_not_expand_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiny_audio.decoders.FREE_SECONDS", 720.0)  # a tenth of what it is, to be quicker
    data = encode("flac", np.zeros(1080 * 1000, np.float32), 1_000)
    assert len(data) < 20_000
    for read in (load_audio, header_seconds):
        with pytest.raises(AudioError, match=r"bytes expand to more than 0\.[23] hours") as caught:
            read(data)
        assert caught.value.reason == "decode_error"


def test_no_more_is_decoded_than_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode("flac", np.zeros(600 * SAMPLE_RATE, np.float32))
    decoded: list[int] = []
    genuine = Allowance.add
    monkeypatch.setattr(Allowance, "add", lambda self, x, rate: decoded.append(len(x)) or genuine(self, x, rate))
    with pytest.raises(AudioError, match="is longer than 30 s") as caught:
        load_audio(data, max_seconds=30)
    assert caught.value.reason == "too_long"
    assert sum(decoded) < 100 * SAMPLE_RATE


def test_a_recording_that_takes_all_memory_is_a_bad_recording(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def blocks(self: SndfileDecoder, start: float = 0.0) -> None:
        raise MemoryError

    monkeypatch.setattr(SndfileDecoder, "blocks", blocks)
    with pytest.raises(AudioError, match="more memory") as caught:
        load_audio(encode("wav", tone(1.0)))
    assert caught.value.reason == "decode_error"


@pytest.mark.parametrize("name", ["a" * 300 + ".wav", "a\0b.wav"])
def test_a_name_that_no_file_can_have_is_missing(name: str, tmp_path: Path) -> None:
    with pytest.raises(AudioError) as caught:
        load_audio(tmp_path / name)
    assert caught.value.reason == "missing"


def test_files_that_name_other_files_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.wav").write_bytes(encode("wav", tone(1.0)))
    for name, content in (
        ("list.wav", f"ffconcat version 1.0\nfile {tmp_path}/secret.wav\n"),
        ("stream.mp3", f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\nfile://{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(AudioError) as caught:
            load_audio(tmp_path / name)
        assert caught.value.reason == "decode_error"


def test_tags_in_other_encodings_do_not_matter() -> None:
    tag = b"\0" + "Grüße".encode("latin-1")
    frame = b"TIT2" + len(tag).to_bytes(4, "big") + b"\0\0" + tag
    data = b"ID3\3\0\0" + bytes([0, 0, len(frame) >> 7, len(frame) & 127]) + frame + encode("mp3", tone(2.0))
    assert heard_seconds(data) == pytest.approx(2.0, abs=0.01)
    assert header_seconds(data) == pytest.approx(2.0, abs=0.01)
    m4a = encode("m4a", tone(2.0))
    assert heard_seconds(m4a.replace(b"Lavf", b"\xe9\xe8\xff\xfe")) == pytest.approx(2.0, abs=DELAY)


@pytest.mark.parametrize("kind", ["mp3", "vorbis", "opus", "aac", "webm", "m4a"])
def test_decoders_write_nothing_to_the_terminal(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    rate = rate_of(kind)
    data = encode(kind, speech(4.0, rate), rate)
    rng = np.random.default_rng(0)
    noisy = bytearray(data)
    for place in rng.integers(len(data) // 2, len(data), 20):
        noisy[place] ^= 1 << int(rng.integers(8))
    for one in (data, data[len(data) // 3 :], data + data, bytes(noisy), data[:-100]):
        for read in (partial(load_audio, tell=lambda *note: None), header_seconds):
            with contextlib.suppress(AudioError):
                read(one)
    assert capfd.readouterr() == ("", "")


# Channels, scale, silence


@pytest.fixture
def notes() -> list[tuple[str, str]]:
    return []


def test_channels_that_cancel_each_other_out_do_not_become_silence(
    notes: list[tuple[str, str]], tmp_path: Path
) -> None:
    file = tmp_path / "inverted.flac"
    wave = speech(2.0)
    soundfile.write(file, np.stack([wave, -0.8 * wave], axis=1), SAMPLE_RATE)
    waveform = load_audio(file, tell=lambda *note: notes.append(note))
    np.testing.assert_allclose(waveform, wave, atol=1e-4)
    assert notes == [("cancelled", f"{file}: its channels cancel each other out; channel 0 is taken")]
    soundfile.write(file, np.stack([0.8 * wave, -wave], axis=1), SAMPLE_RATE)
    np.testing.assert_allclose(load_audio(file), -wave, atol=1e-4)


def test_channels_that_do_not_cancel_are_mixed(notes: list[tuple[str, str]]) -> None:
    left, right = speech(2.0), speech(2.0, seed=1)
    for pair in ((left, left), (left, right), (left, 0 * left), (0 * left, 0 * left), (left, -0.3 * left)):
        data = encode("wav", np.stack(pair, axis=1))
        mixed = load_audio(data, tell=lambda *note: notes.append(note))
        np.testing.assert_allclose(mixed, (pair[0] + pair[1]) / 2, atol=1e-4)
    assert notes == []


def test_a_channel_can_be_chosen() -> None:
    left, right = speech(2.0), speech(2.0, seed=1)
    data = encode("wav", np.stack([left, right], axis=1))
    np.testing.assert_allclose(load_audio(data, channel=0), left, atol=1e-4)
    np.testing.assert_allclose(load_audio(data, channel=1), right, atol=1e-4)
    with pytest.raises(AudioError, match="has no channel 2: it has 2, of which 0 is the first"):
        load_audio(data, channel=2)


@pytest.mark.parametrize(("bits", "divisor"), [(15, 1 << 15), (23, 1 << 23), (31, 1 << 31)])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_floats_that_are_integers_are_brought_to_scale(
    bits: int, divisor: int, subtype: str, notes: list[tuple[str, str]], tmp_path: Path
) -> None:
    wave = speech(1.0) / np.abs(speech(1.0)).max()
    soundfile.write(
        tmp_path / "a.wav", np.rint(wave.astype(np.float64) * 0.9 * (1 << bits)), SAMPLE_RATE, subtype=subtype
    )
    waveform = load_audio(tmp_path / "a.wav", tell=lambda *note: notes.append(note))
    np.testing.assert_allclose(waveform, 0.9 * wave, atol=1e-4)
    assert len(notes) == 1
    assert f"divided by {divisor:,}" in notes[0][1]


def test_floats_above_full_scale_stay_as_they_are(notes: list[tuple[str, str]], tmp_path: Path) -> None:
    for wave in (speech(1.0) * 12, np.eye(1, 8000, 100, dtype=np.float32)[0]):
        soundfile.write(tmp_path / "a.wav", wave, SAMPLE_RATE, subtype="FLOAT")
        assert np.array_equal(load_audio(tmp_path / "a.wav", tell=lambda *note: notes.append(note)), wave)
    assert notes == []


def test_dithered_silence_is_silent_and_quiet_speech_is_not() -> None:
    rng = np.random.default_rng(0)
    triangular = rng.uniform(-0.5, 0.5, (2, 32_000)).sum(0)
    for dither in (np.rint(triangular), np.rint(2 * triangular), np.rint(rng.standard_normal(32_000)), np.zeros(100)):
        for rate in (8_000, 16_000, 44_100):
            assert is_silent(load_audio(encode("wav", (dither / 32_768).astype(np.float32), rate)))
    assert not is_silent(speech(2.0) * 1e-3)
    click = np.zeros(32_000, np.float32)
    click[100] = 0.01
    assert not is_silent(click)


# What is said


def test_what_is_missing_is_said(notes: list[tuple[str, str]], tmp_path: Path) -> None:
    file = tmp_path / "cut.wav"
    whole = encode("wav", tone(4.0))
    file.write_bytes(whole[: len(whole) // 2])
    assert len(load_audio(file, tell=lambda *note: notes.append(note))) / SAMPLE_RATE == pytest.approx(2.0, abs=0.01)
    assert notes == [("cut", f"{file}: holds 2.00 s of the 4.00 s that its header announces")]


def test_a_note_is_told_once_a_process(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "_told", set())
    wave = speech(1.0)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            load_audio(encode("wav", np.stack([wave, -0.9 * wave], axis=1)))
    assert [record.getMessage() for record in caplog.records] == [
        "a recording in a table: its channels cancel each other out; channel 0 is taken. "
        "Further ones of this kind are not reported."
    ]


def test_one_of_several_tracks_is_read_and_the_others_are_told(notes: list[tuple[str, str]]) -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        streams = [out.add_stream("flac", rate=SAMPLE_RATE, layout="mono") for _ in range(2)]
        for stream in streams:
            values = (tone(1.0)[None] * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(values, "s16", "mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, 0
            out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    waveform = load_audio(file.getvalue(), tell=lambda *note: notes.append(note))
    assert len(waveform) == SAMPLE_RATE
    assert [kind for kind, _ in notes] == ["tracks"]
