"""Recordings in many formats, made on the spot: by libsndfile where it writes them, else by FFmpeg."""

from __future__ import annotations

import io

import av
import numpy as np
import soundfile

from tiny_audio.lengths import SAMPLE_RATE

SNDFILE = {
    "wav": {"format": "WAV"},
    "flac": {"format": "FLAC"},
    "mp3": {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.5},
    "vorbis": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
}
# Container and codec of FFmpeg, the form of samples that the codec takes, and whether it knows 48 kHz alone.
FFMPEG = {
    "m4a": ("ipod", "aac", "fltp"),
    "mp4": ("mp4", "aac", "fltp"),
    "aac": ("adts", "aac", "fltp"),
    "wma": ("asf", "wmav2", "fltp"),
    "webm": ("webm", "libopus", "flt"),
    "mka": ("matroska", "flac", "s16"),
    "3gp": ("3gp", "aac", "fltp"),
    "ac3": ("ac3", "ac3", "fltp"),
}


def encode(kind: str, wave: np.ndarray, rate: int = SAMPLE_RATE) -> bytes:
    """Encode samples (S,) or (S, C) float32."""
    file = io.BytesIO()
    if kind in SNDFILE:
        channels = 1 if wave.ndim == 1 else wave.shape[1]
        with soundfile.SoundFile(file, "w", rate, channels, **SNDFILE[kind]) as out:  # type: ignore[arg-type]
            for start in range(0, len(wave), rate):  # libsndfile's Vorbis overflows the stack on more
                out.write(wave[start : start + rate])
        return file.getvalue()
    container, codec, form = FFMPEG[kind]
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono" if wave.ndim == 1 else "stereo")
        stream.bit_rate = 64_000
        size = stream.codec_context.frame_size or 1024
        for start in range(0, len(wave), size):
            block = wave[start : start + size].reshape(min(size, len(wave) - start), -1)
            values = block.T if form == "fltp" else block.reshape(1, -1)
            values = (values * 32767).astype(np.int16) if form == "s16" else values
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(values), form, stream.layout.name)
            frame.sample_rate, frame.pts = rate, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def without_xing(mp3: bytes) -> bytes:
    """Take away the first frame of an mp3 file, which says how many follow: what an encoder leaves in a pipe."""
    assert b"Xing" in mp3[:200]
    return mp3[mp3.index(mp3[:2], 4) :]


def with_total_samples(flac: bytes, total: int) -> bytes:
    """Change the number of samples that a FLAC file announces: 36 bits of STREAMINFO; 0 means unknown."""
    assert flac.startswith(b"fLaC")
    kept = flac[21] & 0xF0
    return flac[:21] + bytes([kept | total >> 32]) + (total & 0xFFFFFFFF).to_bytes(4, "big") + flac[26:]
