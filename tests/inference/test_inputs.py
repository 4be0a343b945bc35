"""What Python code hands over: the same samples, whatever holds them; and what holds none is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soxr
import torch

from tiny_audio.audio import AudioError, load_audio
from tiny_audio.inference import Recognizer
from tiny_audio.inference.inputs import to_waveform


@pytest.fixture(scope="module")
def recording(corpus) -> Path:
    return corpus / "dev0.flac"


@pytest.fixture(scope="module")
def samples(recording) -> np.ndarray:
    return load_audio(recording)


def test_files_bytes_and_samples_are_one_recording(recording, samples):
    same = [
        *(recording, str(recording), recording.read_bytes(), io.BytesIO(recording.read_bytes())),
        *(samples, samples.astype(np.float64), torch.from_numpy(samples.copy())),
        *(np.stack((samples, samples)), np.stack((samples, samples), axis=1)),
        {"array": samples.tolist(), "sampling_rate": 16_000},
        {"path": None, "bytes": recording.read_bytes()},
        {"path": str(recording), "bytes": None},
    ]
    for one in same:
        np.testing.assert_allclose(to_waveform(one), samples, atol=1e-6)


@pytest.mark.parametrize(("kind", "scale", "offset"), [("int16", 2**15, 0), ("int32", 2**31, 0), ("uint8", 128, 128)])
def test_integers_are_scaled_to_one(samples, kind, scale, offset):
    whole = np.clip(
        np.rint(samples.astype(np.float64) * scale * 0.5 + offset), *[np.iinfo(kind).min, np.iinfo(kind).max]
    )
    found = to_waveform(whole.astype(kind), 16_000)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, samples * 0.5, atol=1 / scale + 1e-6)


def test_another_rate_is_resampled(samples):
    other = soxr.resample(samples, 16_000, 44_100)
    found = to_waveform(other, sampling_rate=44_100)
    assert abs(len(found) - len(samples)) <= 1
    np.testing.assert_allclose(found, soxr.resample(other, 44_100, 16_000), atol=1e-6)


def test_tensors_of_half_precision_and_with_gradients_are_read(samples):
    tensor = torch.from_numpy(samples.copy())
    np.testing.assert_allclose(to_waveform(tensor.bfloat16()), samples, atol=0.01)
    np.testing.assert_allclose(to_waveform(tensor.requires_grad_()), samples)


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (np.zeros((2, 3, 100), np.float32), None, r"samples must be \(S,\), .* got \(2, 3, 100\)"),
        (np.zeros((100, 80), np.float32), None, "no recording of at most 32 channels"),
        (np.zeros(1000, np.int64), None, "got int64: its full scale is not known"),
        (np.zeros(1000, np.complex64), None, "got complex64"),
        (np.zeros(1000, np.float32), 0, "sampling_rate must be between 1,000 and 768,000 Hz, got 0"),
        ("a.wav", 8000, "a file says its own"),
        ({"array": np.zeros(1000)}, None, "needs its sampling_rate"),
        ({"text": "hello"}, None, "it has text"),
        (7, None, "not int"),
        (io.StringIO("text"), None, "opened in binary mode"),
    ],
)
def test_what_is_no_recording_is_refused(audio, rate, message):
    with pytest.raises((ValueError, TypeError), match=message):
        to_waveform(audio, rate)


def test_of_a_list_the_others_go_on(checkpoint, recording, samples, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    recognizer = Recognizer(checkpoint, "cpu")
    found = recognizer.transcribe([recording, tmp_path / "bad.wav", samples, samples[:100]])
    assert [bool(one.error) for one in found] == [False, True, False, True]
    assert found[0].text == found[2].text == recognizer.transcribe(recording).text
    assert found[0].path == str(recording)
    assert found[0].segments[0].end == pytest.approx(len(samples) / 16_000, abs=0.2)
    with pytest.raises(AudioError):
        recognizer.transcribe(tmp_path / "bad.wav")


def test_words_have_their_times_in_the_recording(checkpoint, samples):
    recognizer = Recognizer(checkpoint, "cpu")
    recognizer.model.add_ctc(torch.arange(10, 300), torch.full((290,), -5.0))
    later = np.concatenate((np.zeros(5 * 16_000, np.float32), samples, np.zeros(16_000, np.float32)))
    found = recognizer.transcribe(later, word_timestamps=True)
    assert not recognizer.transcribe(later).words
    assert found.segments[0].start > 4.5
    for word in found.words:
        assert 4.5 < word.start <= word.end <= found.segments[-1].end


def test_m4a_of_a_phone_and_webm_of_a_browser_are_read(tmp_path, samples):
    import av

    for name, codec in (("phone.m4a", "aac"), ("browser.webm", "libopus")):
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream(codec, rate=48_000, layout="mono")
            sound = (soxr.resample(samples, 16_000, 48_000) * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(sound, format="s16", layout="mono")
            frame.sample_rate = 48_000
            for packet in (*stream.encode(frame), *stream.encode(None)):
                container.mux(packet)
        for one in (tmp_path / name, (tmp_path / name).read_bytes()):
            assert len(to_waveform(one)) == pytest.approx(len(samples), abs=2000)


def test_a_run_s_folder_and_its_final_checkpoint_are_one_model(checkpoint, recording):
    import tiny_audio

    by_folder = tiny_audio.load_model(Path(checkpoint).parent.parent, device="cpu")
    assert isinstance(by_folder, Recognizer)
    assert by_folder.transcribe(recording) == Recognizer(checkpoint, "cpu").transcribe(recording)
