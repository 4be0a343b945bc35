"""Augmentation: what each effect does, measured; and that a draw sounds the same whoever reads it."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from clips import read_lines, tone, write, write_bad_files, write_manifest
from tiny_audio.audio import is_silent, load_audio
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data.augment import SPEEDS, Augmenter, add_noise, level, open_augmenter, reverberate
from tiny_audio.data.loader import ClipDataset, eval_loader, train_loader
from tiny_audio.data.plan import Draw, SamplingPlan
from tiny_audio.data.sounds import Sounds, open_sounds
from tiny_audio.data.sources import Source, open_sources
from tiny_audio.errors import ConfigError, UserError

RATE = 16_000
DATA = DataConfig()
LIGHT = DataConfig(augmentation="light")
NOISE_RIR = (
    Path(os.environ.get("TINY_AUDIO_SPEECH", Path(__file__).parents[3] / "shared" / "speech")) / "noise_rir/audio"
)


def hiss(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))).astype(np.float32)


def a_response(delay: int = 40, seconds: float = 0.2) -> np.ndarray:
    """A direct path after `delay` samples, then noise that dies away."""
    tail = hiss(seconds) * np.exp(-np.arange(round(seconds * RATE)) / (0.05 * RATE)).astype(np.float32)
    return np.concatenate([np.zeros(delay, np.float32), [np.float32(0.9)], tail])


def decibels(signal: np.ndarray, noise: np.ndarray) -> float:
    return 10 * np.log10(np.square(signal, dtype=float).mean() / np.square(noise, dtype=float).mean())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`noise` and `rooms`, with recordings of every kind, and `a.jsonl`: 24 clips of 0.3 to 1.5 s."""
    folder = tmp_path_factory.mktemp("augment")
    (folder / "noise/street").mkdir(parents=True)
    (folder / "rooms").mkdir()
    soundfile.write(folder / "noise/long.flac", hiss(4.0), RATE)
    soundfile.write(folder / "noise/short.OGG", hiss(0.25), RATE)
    soundfile.write(folder / "noise/street/telephone.wav", hiss(2.0, 1, 8000), 8000)
    soundfile.write(folder / "noise/street/stereo.mp3", np.stack([hiss(2.0, 2), hiss(2.0, 3)], axis=1), RATE)
    (folder / "noise/street/README.txt").write_text("not a recording, and no warning")
    soundfile.write(folder / "rooms/a.wav", a_response(), RATE)
    soundfile.write(folder / "rooms/b.flac", np.stack([a_response(300), np.roll(a_response(300), 9)], axis=1), RATE)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(24):
        write(folder / f"{i}.flac", rng.uniform(0.3, 1.5))
        rows.append({"audio": f"{i}.flac", "text": f"clip {i}"})
    write_manifest(folder / "a.jsonl", rows)
    return folder


@pytest.fixture(scope="module")
def sources(folder: Path) -> list[Source]:
    return open_sources([DatasetConfig(path=str(folder / "a.jsonl"))], DATA, folder / "cache", limit=None, seed=0)


@pytest.fixture(scope="module")
def augmenter(folder: Path) -> Augmenter:
    data = replace(LIGHT, noise_path=str(folder / "noise"), room_path=str(folder / "rooms"))
    found = open_augmenter(data, seed=7)
    assert found is not None
    return found


def with_sounds(augmenter: Augmenter, **sounds: Sounds | None) -> Augmenter:
    chosen = {"noises": augmenter.noises, "rooms": augmenter.rooms, **sounds}
    return Augmenter(augmenter.seed, LIGHT, **chosen)


# The effects


@pytest.mark.parametrize("snr", [-5.0, 10.0, 30.0])
def test_noise_has_the_ratio_that_was_asked_for(snr):
    speech, noise = tone(1.3), hiss(1.3)
    noisy = add_noise(speech, noise, snr)
    assert noisy.dtype == np.float32
    assert decibels(speech, noisy - speech) == pytest.approx(snr, abs=0.01)
    assert np.corrcoef(noisy - speech, noise)[0, 1] > 0.999
    assert np.array_equal(add_noise(speech, np.zeros_like(noise), snr), speech)


@pytest.mark.parametrize("delay", [0, 1, 777])
@pytest.mark.parametrize("samples", [1600, 20_011])
def test_a_room_is_the_convolution_from_the_direct_path_on(delay, samples):
    speech, response = tone(2.0)[:samples], a_response(delay)
    wet = reverberate(speech, response)
    slow = np.convolve(speech.astype(float), response.astype(float))[delay : delay + samples]
    slow *= np.sqrt(np.square(speech, dtype=float).mean() / np.square(slow).mean())
    assert wet.dtype == np.float32
    np.testing.assert_allclose(wet, slow, atol=1e-5)
    assert level(wet) == pytest.approx(level(speech), rel=1e-5)


def test_a_room_does_not_shift_a_clip_and_an_empty_one_changes_nothing():
    speech = hiss(1.0)
    lag = np.correlate(reverberate(speech, a_response(555)), speech[1000:-1000]).argmax()
    assert lag == 1000
    faint = np.float32([0, 3e-5, 0])
    np.testing.assert_allclose(reverberate(speech, faint), speech, atol=1e-6)
    for empty in (np.zeros(0, np.float32), np.zeros(100, np.float32)):
        assert np.array_equal(reverberate(speech, empty), speech)


@pytest.mark.parametrize("percent", SPEEDS)
def test_speed_moves_length_and_pitch(percent):
    time = np.arange(2 * RATE) / RATE
    played = Augmenter(0, LIGHT).change_speed(np.sin(2 * np.pi * 1000 * time).astype(np.float32), percent)
    assert len(played) == pytest.approx(2 * RATE * 100 / percent, abs=1)
    peak = np.abs(np.fft.rfft(played)).argmax() * RATE / len(played)
    assert peak == pytest.approx(1000 * percent / 100, abs=1)


@pytest.mark.parametrize(("seconds", "percent"), [(29.0, 90), (0.105, 110)])
def test_a_clip_that_would_leave_the_bounds_keeps_its_speed(seconds, percent):
    clip = tone(seconds)
    assert np.array_equal(Augmenter(0, LIGHT).change_speed(clip, percent), clip)
    other = 200 - percent  # the other way there is room
    assert len(Augmenter(0, LIGHT).change_speed(clip, other)) != len(clip)


def test_the_shares_of_the_effects_are_those_that_are_documented(folder, augmenter):
    """Seen from outside: by the length, and by what a constant clip becomes."""
    clip, draws = tone(0.5), range(600)
    only_gain = with_sounds(augmenter, noises=None, rooms=None)
    plain = [only_gain(clip, n) for n in draws]
    for percent in SPEEDS:
        same = [n for n in draws if len(plain[n]) == pytest.approx(len(clip) * 100 / percent, abs=1)]
        assert len(same) == pytest.approx(200, abs=40)
    gains = [20 * np.log10(level(wave) / level(clip)) for wave in plain]
    assert min(gains) > -6.1
    assert max(gains) < 6.1
    assert np.std(gains) == pytest.approx(12 / 12**0.5, rel=0.1)
    for key, share in (("rooms", 0.3), ("noises", 0.5)):
        one = with_sounds(augmenter, **{"noises": None, "rooms": None, key: getattr(augmenter, key)})
        changed = sum(not np.array_equal(one(clip, n), plain[n]) for n in draws)
        assert changed / len(draws) == pytest.approx(share, abs=0.07), key


def test_the_order_is_speed_room_noise_gain(augmenter):
    """The same numbers, the effects one after another by hand."""
    clip = 0.3 * tone(0.7)
    for number in range(40):
        u = np.random.default_rng([7, 3, number]).random(8)
        wave = augmenter.change_speed(clip, SPEEDS[int(3 * u[0])])
        if u[1] < 0.3:
            wave = reverberate(wave, augmenter.rooms.whole(u[2]))
        if u[3] < 0.5:
            wave = add_noise(wave, augmenter.noises.piece(u[4], u[5], len(wave)), 10 + 20 * u[6])
        wave = wave * 10 ** ((12 * u[7] - 6) / 20)
        assert np.abs(wave).max() < 1
        np.testing.assert_allclose(augmenter(clip, number), wave, atol=1e-6)


def test_naming_noises_changes_neither_speed_nor_gain_nor_room(augmenter):
    clip, dry = tone(0.5), with_sounds(augmenter, noises=None)
    for number in range(60):
        noisy, plain = augmenter(clip, number), dry(clip, number)
        assert len(noisy) == len(plain)
        if not np.array_equal(noisy, plain):
            assert decibels(plain, noisy - plain) > 9.9


def test_the_range_of_ratios_is_the_users(augmenter, folder):
    data = replace(LIGHT, noise_path=str(folder / "noise/long.flac"), noise_snr_db=[3.0, 3.0])
    noisy, plain, clip = open_augmenter(data, 7), Augmenter(7, LIGHT), 0.3 * tone(0.5)
    found = [decibels(plain(clip, n), noisy(clip, n) - plain(clip, n)) for n in range(30) if not np.array_equal(
        noisy(clip, n), plain(clip, n))]  # fmt: skip
    assert len(found) > 5
    assert found == pytest.approx([3.0] * len(found), abs=0.02)


def test_nothing_clips_falls_silent_or_becomes_nan(tmp_path):
    """Loud clips, silent stretches, and noises that are nothing but one tick."""
    (tmp_path / "noise").mkdir()
    tick = np.zeros(3 * RATE, np.float32)
    tick[5] = 1.0
    soundfile.write(tmp_path / "noise/tick.wav", tick, RATE)
    soundfile.write(tmp_path / "noise/sub.wav", np.full(2 * RATE, 1e-4, np.float32), RATE, subtype="FLOAT")
    data = replace(LIGHT, noise_path=str(tmp_path / "noise"), room_path=str(tmp_path / "noise/tick.wav"))
    augmenter = open_augmenter(data, 0)
    assert augmenter is not None
    quiet = np.zeros(RATE, np.float32)
    quiet[-50:] = 2e-5
    for clip in (np.sign(tone(0.5)) * np.float32(1.4), quiet, tone(0.1)):
        before = clip.copy()
        for number in range(100):
            wave = augmenter(clip, number)
            assert wave.dtype == np.float32
            assert np.isfinite(wave).all()
            assert 0 < np.abs(wave).max() <= 1
        assert np.array_equal(clip, before)


# What is found and read


def test_noise_is_looped_cut_resampled_and_mixed_down(folder):
    noises = open_sounds("data.noise_path", folder / "noise")
    assert [Path(path).name for path in noises.paths] == ["long.flac", "short.OGG", "stereo.mp3", "telephone.wav"]
    whole = [load_audio(path) for path in noises.paths]
    long, short, stereo, telephone = [(i + 0.5) / 4 for i in range(4)]
    piece = noises.piece(long, 0.5, RATE)
    starts = {int(0.5 * (4 * RATE - RATE + 1))}
    assert np.array_equal(piece, whole[0][(start := starts.pop()) : start + RATE])
    looped = noises.piece(short, 0.3, RATE)
    offset = int(0.3 * len(whole[1]))
    assert np.array_equal(looped, np.take(whole[1], np.arange(offset, offset + RATE), mode="wrap"))
    mixed = noises.piece(stereo, 0.0, RATE)
    np.testing.assert_allclose(mixed, whole[2][:RATE], atol=1e-6)
    for where in (0.0, 0.999):
        resampled = noises.piece(telephone, where, RATE)
        assert len(resampled) == RATE
        spectrum = np.abs(np.fft.rfft(resampled)) ** 2
        assert spectrum[4100:].sum() < 0.01 * spectrum.sum(), "8 kHz has nothing above 4 kHz"
    assert len(noises.piece(telephone, 0.7, 5 * RATE)) == 5 * RATE


def test_bad_recordings_are_named_and_left_out(tmp_path, caplog):
    due = write_bad_files(tmp_path / "noise")
    write(tmp_path / "noise/good.wav", 1.0)
    with caplog.at_level(logging.WARNING):
        noises = open_sounds("data.noise_path", tmp_path / "noise")
    kept = {Path(path).name for path in noises.paths}
    usable = {"good.wav", "short.wav", "cut.wav", "cut.mp3", "long.flac"}  # as noise they are as good as any
    assert kept == usable
    left_out = set(due) - usable - {"absent.wav"}
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 6
    assert told[-1] == f"data.noise_path: left out {len(left_out)} recordings in all."
    assert all(any(name in line for name in left_out) for line in told[:-1])


def test_a_room_response_of_a_minute_is_left_out(tmp_path, caplog):
    write(tmp_path / "speech.flac", 60.0)
    soundfile.write(tmp_path / "room.wav", a_response(), RATE)
    with caplog.at_level(logging.WARNING):
        augmenter = open_augmenter(replace(LIGHT, room_path=str(tmp_path)), 0)
    assert [Path(path).name for path in augmenter.rooms.paths] == ["room.wav"]
    assert "speech.flac: is longer than 10 s" in caplog.text


def test_manifests_and_single_recordings_are_found(folder, tmp_path):
    rows = [{"audio": str(folder / "noise/long.flac"), "kind": "noise"}, {"audio": "b.wav"}]
    soundfile.write(tmp_path / "b.wav", hiss(1.0), RATE)
    manifest = write_manifest(tmp_path / "noise.jsonl", rows)
    assert list(open_sounds("data.noise_path", manifest).paths) == [rows[0]["audio"], str(tmp_path / "b.wav")]
    (tmp_path / "noise.csv").write_text("file_name\nb.wav\n")
    assert list(open_sounds("data.noise_path", tmp_path / "noise.csv").paths) == [str(tmp_path / "b.wav")]
    assert len(open_sounds("data.noise_path", tmp_path / "b.wav")) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no such folder, manifest or recording"),
        (lambda path: path.mkdir(), "there is no recording"),
        (lambda path: path.write_bytes(b"no audio"), "none of its 1 recordings can be used"),
        (lambda path: write_manifest(path, [{"sound": "a"}]), "names no recording"),
        (lambda path: path.write_text("{"), "line 1 is not JSON"),
    ],
)
def test_where_there_is_nothing_one_line_says_so(make, message, tmp_path):
    path = tmp_path / ("noise.jsonl" if "JSON" in message or "names" in message else "noise")
    make(path)
    with pytest.raises(UserError, match=message) as raised:
        open_augmenter(replace(LIGHT, noise_path=str(path)), 0)
    assert str(raised.value).startswith("data.noise_path")
    assert "\n" not in str(raised.value)


def test_a_noise_that_vanishes_in_the_run_is_left_out_and_named(tmp_path, caplog):
    path = write(tmp_path / "noise.wav", 1.0)
    augmenter = open_augmenter(replace(LIGHT, noise_path=str(path), room_path=str(path)), 0)
    path.unlink()
    clip, plain = tone(0.5), Augmenter(0, LIGHT)
    with caplog.at_level(logging.WARNING):
        assert all(np.array_equal(augmenter(clip, n), plain(clip, n)) for n in range(20))
    assert f"{path} can no longer be read" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augmentation": "ligth"}, "Did you mean light"),
        ({"augmentation": "light", "cache_features": True}, "data.cache_features=true encodes each clip once"),
        ({"noise_path": "x"}, "data.noise_path=x is used with data.augmentation=light or"),
        ({"room_path": "x"}, "data.room_path=x is used with"),
        ({"noise_snr_db": [30.0, 10.0]}, "data.noise_snr_db must be"),
        ({"noise_snr_db": [10.0]}, "data.noise_snr_db must be"),
        ({"noise_snr_db": [float("nan"), 10.0]}, "data.noise_snr_db must be"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(**settings)


# In the loader


def a_plan(sources: list[Source]) -> SamplingPlan:
    return SamplingPlan([s.durations for s in sources], [1.0] * len(sources), 4, seed=7)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_draws_sound_the_same_for_any_workers_and_after_a_resume(num_workers, sources, augmenter):
    plan, dataset = a_plan(sources), ClipDataset(sources, str.split, DATA, augmenter)
    dataset.tokenize = lambda text: [len(text)]
    whole = [dataset.__getitems__(plan.batch(number)) for number in range(10)]
    resumed = list(train_loader(plan, dataset, start_batch=3, stop_batch=10, num_workers=num_workers))
    assert len(resumed) == 7
    for one, other in zip(whole[3:], resumed, strict=True):
        assert torch.equal(one.waveforms, other.waveforms)
        assert torch.equal(one.num_samples, other.num_samples)
        assert one.audio_seconds == other.audio_seconds
    halves = [list(train_loader(plan, dataset, process_index=i, num_processes=2, stop_batch=10)) for i in range(2)]
    assert all(torch.equal(halves[n % 2][n // 2].waveforms, whole[n].waveforms) for n in range(10))


def test_a_clip_sounds_different_when_it_is_drawn_again_and_with_another_seed(sources, augmenter):
    dataset = ClipDataset(sources, lambda text: [1], DATA, augmenter)
    other = ClipDataset(sources, lambda text: [1], DATA, Augmenter(8, LIGHT, augmenter.noises, augmenter.rooms))
    heard = [dataset.read(Draw(number, 0, 5)).waveform for number in range(10)]
    assert all(not np.array_equal(heard[i], heard[j]) for i in range(10) for j in range(i))
    assert np.array_equal(dataset.read(Draw(4, 0, 5)).waveform, heard[4])
    assert not np.array_equal(other.read(Draw(4, 0, 5)).waveform, heard[4])


def test_lengths_and_seconds_are_those_of_what_is_fed(sources, augmenter):
    plan, dataset = a_plan(sources), ClipDataset(sources, lambda text: [1], DATA, augmenter)
    changed = 0
    for number in range(8):
        draws = plan.batch(number)
        batch, clips = dataset.__getitems__(draws), [dataset.read(draw) for draw in draws]
        assert batch.audio_seconds == pytest.approx(sum(len(clip.waveform) for clip in clips) / RATE)
        for row, (draw, clip) in enumerate(zip(draws, clips, strict=True)):
            assert clip.num_samples == len(clip.waveform)
            assert batch.num_samples[row] == clip.num_samples
            assert np.array_equal(batch.waveforms[row, : clip.num_samples].numpy(), clip.waveform)
            changed += clip.num_samples != len(sources[0].read(draw.row))
    assert changed > 10


def test_without_augmentation_a_clip_is_what_the_recording_holds(sources):
    assert open_augmenter(DATA, 0) is None
    dataset = ClipDataset(sources, lambda text: [1], DATA, open_augmenter(DATA, 0))
    for batch in eval_loader(dataset, 4):
        for row, name in enumerate(batch.names):
            waveform = sources[0].read(sources[0].names.index(name))
            assert np.array_equal(batch.waveforms[row, : len(waveform)].numpy(), waveform)


def test_a_recording_is_judged_before_it_is_sped_up(tmp_path):
    """1.1 times as fast it would miss 0.54 of 6 s, more than a recording that is whole may."""
    write(tmp_path / "a.wav", 5.95)
    manifest = write_manifest(tmp_path / "a.jsonl", [{"audio": "a.wav", "text": "a", "duration": 6.0}])
    source = open_sources([DatasetConfig(path=str(manifest))], DATA, tmp_path, limit=None, seed=0)
    dataset = ClipDataset(source, lambda text: [1], DATA, Augmenter(0, LIGHT))
    lengths = {dataset.read(Draw(number, 0, 0)).num_samples for number in range(20)}
    assert len(lengths) == 3


# Real recordings


@pytest.mark.skipif(not NOISE_RIR.is_dir(), reason=f"no recordings in {NOISE_RIR}: set TINY_AUDIO_SPEECH")
def test_real_noises_and_rooms():
    noises = open_sounds("data.noise_path", NOISE_RIR / "noise")
    rooms = open_sounds("data.room_path", NOISE_RIR / "rir", 10.0)
    assert (len(noises), len(rooms)) == (60, 10)
    manifest = NOISE_RIR.parent / "manifest.jsonl"
    listed = read_lines(manifest)
    assert len(open_sounds("data.noise_path", manifest)) == len(listed)
    speech, heard = tone(0.5), 0
    for i in range(60):
        piece = noises.piece((i + 0.5) / 60, 0.37, len(speech))
        noisy = add_noise(speech, piece, 15.0)
        if not is_silent(piece):  # some of the recordings are digital silence for seconds
            heard += 1
            assert decibels(speech, noisy - speech) == pytest.approx(15.0, abs=0.05)
    assert heard >= 50
    for i in range(10):
        response = rooms.whole((i + 0.5) / 10)
        direct = int(np.abs(response).argmax())
        slow = np.convolve(speech.astype(float), response)[direct : direct + len(speech)]
        slow *= level(speech) / np.sqrt(np.square(slow).mean())
        np.testing.assert_allclose(reverberate(speech, response), slow, atol=2e-5)
