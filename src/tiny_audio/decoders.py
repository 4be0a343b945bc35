"""Encoded recordings to blocks of samples: the decoders, and the checks of what a header claims.

The length in a header is only a hint: the end of the file decides. Its rate and channels have to be possible, and the
size of the file bounds how much it may decode to.

Dimensions: S samples, C channels.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import BinaryIO, Protocol

import av
import numpy as np
import soundfile

BLOCK_VALUES = 1 << 20  # samples times channels that are decoded at once
RATES = (1_000, 384_000)  # Hz: no recording of speech has a rate outside of these
MAX_CHANNELS = 64

# The most that a file may decode to. Two hours of digital silence take 100 kB, and speech takes more than 1 kbit/s.
FREE_SECONDS, SECONDS_PER_BYTE = 7_200.0, 1 / 125
FREE_VALUES, VALUES_PER_BYTE = 1 << 28, 512

SAMPLE_BYTES = {"PCM_S8": 1, "PCM_U8": 1, "ULAW": 1, "ALAW": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4}
SAMPLE_BYTES |= {"FLOAT": 4, "DOUBLE": 8}
STREAMED_WAV_BYTES = 0x7FF00000  # programs that write wav to a pipe put a placeholder above this for the length
PREROLL_SECONDS = 0.5  # decoded before the wanted place, since codecs depend on earlier packets
LONGEST_PACKET = 1.0  # seconds; a damaged one may claim any length
GAPLESS_SECONDS = 0.25  # by which the packets of a file may exceed its samples: the encoder's delay and padding

PLANES = 8  # FFmpeg has room for so many; if all are in use, PyAV reads beyond them, and the process crashes
_MP3_HEAD_BYTES = 4_096  # of frames, of which the first may list the others
#: Formats without a table of packets: FFmpeg guesses their length from the first packets.
GUESSED = ("mp3", "flac", "aac", "amr", "amrnb", "amrwb", "ac3", "eac3", "mpeg", "mpegts", "dts")

#: FFmpeg's demuxers that read one audio file; others open what a file names, such as playlists and devices.
DEMUXERS = (
    "mp3,ogg,flac,aac,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,asf,amr,amrnb,amrwb,ac3,eac3,ape,wv,tta,mpeg,mpegts,avi,"
    "flv,wav,w64,aiff,au,caf,mp2,dts,spx"
)


class AudioError(Exception):
    """A recording that cannot be used; `reason` is one word of `REASONS`, the message gives details."""

    REASONS = (
        "missing",
        "decode_error",
        "non_finite",
        "silent",
        "too_short",
        "too_long",
        "duration_mismatch",
    )

    UNREADABLE = ("missing", "decode_error")  # may be readable tomorrow: the disk was not mounted

    def __init__(self, reason: str, message: str) -> None:
        assert reason in self.REASONS
        super().__init__(message)
        self.reason = reason


class Decoder(Protocol):
    """One encoded recording, open.

    Attributes:
        format: the codec, or the container of uncompressed samples: `flac`, `mp3`, `wav`.
        sample_rate: Hz.
        channels: C.
        is_float: whether it holds floats, of any scale.
        tracks: number of audio tracks in the file, of which one is read.
        lost: damaged seconds that were left out so far.
        unread: bytes of the file without audio, once all of it was decoded; 0 where such bytes are usual.
    """

    format: str
    sample_rate: int
    channels: int
    is_float: bool
    tracks: int
    lost: float
    unread: int

    def close(self) -> None:
        """Close the file."""

    def announced(self) -> float | None:
        """Return the seconds that the header announces; None if it announces none, or an impossible length."""

    def seconds(self) -> float:
        """Return the length of the recording, from its header if that is reliable, else from the whole file."""

    def blocks(self, start: float = 0.0) -> Iterator[tuple[np.ndarray, int]]:
        """Yield samples (S, C) float32 and their rate, from `start` seconds on, to the end of the file."""


class Allowance:
    """Compares the decoded length of a recording with the most that is possible for a file of its size.

    Args:
        size: of the file, in bytes.
    """

    def __init__(self, size: int) -> None:
        self.max_seconds = FREE_SECONDS + size * SECONDS_PER_BYTE
        self._max_values = FREE_VALUES + size * VALUES_PER_BYTE
        self._size, self._seconds, self._values = size, 0.0, 0

    def add(self, samples: np.ndarray, rate: int) -> float:
        """Count samples (S, C); return the seconds so far.

        Raises:
            AudioError: decode_error, if they are too many.
        """
        return self.check(self._seconds + len(samples) / rate, self._values + samples.size)

    def check(self, seconds: float, values: int = 0) -> float:
        """Set the amounts so far, and check them as `add` does."""
        self._seconds, self._values = seconds, values
        if seconds > self.max_seconds or values > self._max_values:
            raise AudioError(
                "decode_error",
                f"its {self._size:,} bytes expand to more than {self._seconds / 3600:.1f} hours, which no recording "
                "of speech does",
            )
        return seconds


def check_claims(rate: int, channels: int) -> None:
    """Refuse a rate or channel count that no recording can have.

    Raises:
        AudioError: decode_error.
    """
    if not RATES[0] <= rate <= RATES[1]:
        raise AudioError("decode_error", f"says that its rate is {rate:,} Hz, which is not between 1,000 and 384,000")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError("decode_error", f"says that it has {channels:,} channels, more than {MAX_CHANNELS}")


class SndfileDecoder:
    """Decodes with libsndfile: uncompressed samples, FLAC and Vorbis. See `Decoder`.

    Args:
        file: a path or the content of a file.
        size: in bytes.
    """

    def __init__(self, file: str | io.BytesIO, size: int) -> None:
        self._file = soundfile.SoundFile(file)
        self.sample_rate, self.channels = self._file.samplerate, self._file.channels
        container = self._file.subtype if self._file.format == "OGG" else self._file.format
        self.format = {"WAVEX": "wav"}.get(container, container.lower())
        self.is_float = self._file.subtype in ("FLOAT", "DOUBLE")
        self.tracks, self.lost = 1, 0.0
        self._size = size
        width = SAMPLE_BYTES.get(self._file.subtype)
        self.unread = 0 if width is None else size - self._file.frames * self.channels * width

    @property
    def is_believable(self) -> bool:
        """Whether libsndfile reads all of it: not mp3 or GSM in wav, and not a missing or impossible length."""
        known = not self._file.subtype.startswith("MPEG") and self._file.seekable()
        return known and self._file.frames > 0 and self.announced() is not None

    @property
    def goes_on(self) -> bool:
        """Whether a wav file holds more samples than its header says: the bytes after them are not a wav chunk."""
        width = SAMPLE_BYTES.get(self._file.subtype, 0) * self.channels
        rest = self.unread > 0.5 * self.sample_rate * width > 0
        return rest and self.format == "wav" and "Exiting parser" in self._file.extra_info

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def announced(self) -> float | None:
        """See `Decoder`. For a wav file that was cut short, the length in its header, which libsndfile ignores."""
        seconds = self._file.frames / self.sample_rate
        cut = re.search(r"^data : (\d+) \(should be (\d+)\)", self._file.extra_info, re.MULTILINE)
        if cut and int(cut[2]) > 0 and int(cut[1]) < STREAMED_WAV_BYTES:
            seconds *= int(cut[1]) / int(cut[2])
        return seconds if seconds <= Allowance(self._size).max_seconds else None

    def seconds(self) -> float:
        """See `Decoder`."""
        announced = self.announced()
        return count_seconds(self, self._size) if announced is None else announced

    def blocks(self, start: float = 0.0) -> Iterator[tuple[np.ndarray, int]]:
        """See `Decoder`."""
        self._file.seek(min(round(start * self.sample_rate), self._file.frames))
        size = BLOCK_VALUES // self.channels
        while len(block := self._file.read(size, dtype="float32", always_2d=True)):
            yield block, self.sample_rate


class PacketDecoder:
    """Decodes with FFmpeg: compressed audio, in containers of all kinds. See `Decoder`.

    A damaged packet is left out, as in all players, and its length is counted.

    Args:
        file: open, at its beginning.
        size: in bytes.
    """

    is_float = False  # not floats of any scale: decoders of compressed audio have a fixed one

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._open()
        context = self._stream.codec_context
        self.tracks, self.lost = len(self._container.streams.audio), 0.0
        self._zero = 0.0  # where the recording begins, in seconds by the clock of the file
        self._first = 0.0  # where the first decoded frame begins, by the same clock
        self.format = context.codec.canonical_name
        self.sample_rate, self.channels = context.sample_rate, context.layout.nb_channels
        if self.format == "opus" and context.extradata:  # always decodes to 48 kHz (RFC 7845)
            self.sample_rate = int.from_bytes(context.extradata[12:16], "little") or self.sample_rate

    def _open(self) -> None:
        self._file.seek(0)
        options = {"format_whitelist": DEMUXERS}
        self._container = av.open(self._file, mode="r", metadata_errors="replace", options=options)
        stream = self._container.streams.best("audio")
        if not isinstance(stream, av.AudioStream) or stream.codec_context is None:
            self._container.close()
            raise AudioError("decode_error", "holds no sound that can be decoded")
        stream.codec_context.options = {"err_detect": "crccheck+explode"}  # do not decode damaged frames
        self._stream = stream
        self._begun = False
        pictures = self._container.streams.video or self._container.streams.subtitles or self._container.streams.data
        self.unread = 0 if pictures or len(self._container.streams.audio) > 1 else self._size

    def close(self) -> None:
        """Close the decoder and the file."""
        self._container.close()
        self._file.close()

    def announced(self) -> float | None:
        """See `Decoder`."""
        stream, container = self._stream, self._container
        if stream.duration is not None and stream.time_base is not None:
            seconds = float(stream.duration * stream.time_base)
        elif container.duration is not None:
            seconds = container.duration / 1e6
        else:
            return None
        head = stream.codec_context.extradata
        if self.format == "opus" and container.format.name == "ogg" and head:
            seconds -= int.from_bytes(head[10:12], "little") / 48_000  # samples to be skipped at the start (RFC 7845)
        return seconds if 0 < seconds <= Allowance(self._size).max_seconds else None

    def seconds(self) -> float:
        """See `Decoder`. If no table lists the packets, they are counted, without decoding."""
        assert not self._begun
        announced = self.announced()
        if announced is not None and self._container.format.name not in GUESSED:
            return announced
        ticks = sum(packet.duration or 0 for packet in self._packets())
        counted = float(ticks * self._stream.time_base) if self._stream.time_base else 0.0
        if announced is not None and counted - announced < GAPLESS_SECONDS and self._is_listed():
            return announced
        return Allowance(self._size).check(counted)

    def _is_listed(self) -> bool:
        """Whether the first frame of an mp3 file says how many follow; else FFmpeg guessed the length from the size."""
        if self.format != "mp3":
            return False
        self._file.seek(0)
        head = self._file.read(10)
        skipped = 0
        if head.startswith(b"ID3"):
            skipped = 10 + sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(head[6:10]))
        self._file.seek(skipped)
        return re.search(rb"Xing|Info|VBRI", self._file.read(_MP3_HEAD_BYTES)) is not None

    def _packets(self) -> Iterator[av.Packet[av.AudioStream]]:
        """Packets to the end of the file; the last, empty one makes the decoder return its last frames."""
        self._begun = True
        try:
            yield from self._container.demux(self._stream)
        except av.FFmpegError as error:
            raise AudioError("decode_error", f"cannot be read to its end: {error.strerror}") from None

    def blocks(self, start: float = 0.0) -> Iterator[tuple[np.ndarray, int]]:
        """See `Decoder`."""
        if self._begun:
            self._open()
        sought = start > PREROLL_SECONDS and self._seek(start - PREROLL_SECONDS)
        skip: float | None = None  # seconds still to be left out
        end = self.announced() if sought and self._container.format.name == "ogg" else None
        for samples, rate in self._gathered(sought):
            if skip is None:
                skip = max(start - (self._first - self._zero), 0.0) if sought else start
            skipped = min(round(skip * rate), len(samples))
            skip -= skipped / rate
            samples = samples[skipped:]
            start += len(samples) / rate
            if end is not None and 0 < start - end < GAPLESS_SECONDS:  # after a seek, padding is not left out
                samples = samples[: max(len(samples) - round((start - end) * rate), 0)]
            if len(samples):
                yield samples, rate

    def _gathered(self, sought: bool) -> Iterator[tuple[np.ndarray, int]]:
        """Decode, yielding many frames at once; a joined recording may have another rate or number of channels."""
        fifo, gathered, kind = av.AudioFifo(), 0, None
        reached, decoded = 0.0, 0.0
        for packet in self._packets():
            self.unread = max(self.unread - packet.size, 0)
            base = float(packet.time_base or 0)
            seconds = (packet.duration or 0) * base
            reached = max(reached, (packet.pts or 0) * base + seconds)
            try:
                frames = packet.decode()
            except (av.FFmpegError, ValueError):
                self.lost += min(seconds, LONGEST_PACKET)
                continue
            for frame in frames:
                if not decoded:
                    self._first = self._time(frame)
                frame.pts = None
                decoded += frame.samples / frame.sample_rate
                if gathered and kind != (frame.sample_rate, frame.layout.nb_channels, frame.format.name):
                    yield _drained(fifo)
                    gathered = 0
                if not gathered:  # the queue does not check the number of channels, and would crash
                    fifo, kind = av.AudioFifo(), (frame.sample_rate, frame.layout.nb_channels, frame.format.name)
                fifo.write(frame)
                gathered += frame.samples
            if gathered * self.channels >= BLOCK_VALUES:
                yield _drained(fifo)
                gathered = 0
        if gathered:
            yield _drained(fifo)
        missing = reached - decoded - (self._first if sought else 0.0)
        if self.format == "flac" and missing > 1e-3:  # a checksum is wrong
            raise AudioError("decode_error", f"is damaged: {missing:.2f} of {reached:.2f} s cannot be decoded")

    def _time(self, frame: av.AudioFrame) -> float:
        """The time of a frame, in seconds by the clock of the file."""
        return float(frame.pts * frame.time_base) if frame.pts is not None and frame.time_base else 0.0

    def _seek(self, seconds: float) -> bool:
        """Seek to a place at or before `seconds`; return whether that was possible."""
        assert self._stream.time_base is not None
        try:
            self._zero = next(map(self._time, self._container.decode(self._stream)), 0.0)
            self._container.seek(int((self._zero + seconds) / self._stream.time_base), stream=self._stream)
        except av.FFmpegError:
            self._open()
            return False
        return True


def _drained(fifo: av.AudioFifo) -> tuple[np.ndarray, int]:
    """All samples (S, C) of a queue, as float32, and their rate."""
    frame = fifo.read()
    assert frame is not None
    if frame.format.is_planar and frame.layout.nb_channels >= PLANES:
        (frame,) = av.AudioResampler(format=frame.format.packed).resample(frame)
    values = frame.to_ndarray()
    samples = values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype in (np.int16, np.int32):
        samples = samples.astype(np.float32) / np.float32(1 << 8 * samples.dtype.itemsize - 1)
    return samples.astype(np.float32, copy=False), frame.sample_rate


def count_seconds(decoder: Decoder, size: int) -> float:
    """Decode a recording to find out how long it is."""
    allowance = Allowance(size)
    return max((allowance.add(samples, rate) for samples, rate in decoder.blocks()), default=0.0)
