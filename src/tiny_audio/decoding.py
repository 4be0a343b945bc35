"""Chooses the decoder of a recording, and says which files hold recordings."""

from __future__ import annotations

import errno
import io
import mmap
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import av
import soundfile

from .decoders import STREAMED_WAV_BYTES, AudioError, Decoder, PacketDecoder, SndfileDecoder, check_claims

#: Suffixes of recordings, for the files in a folder and the fields of a manifest.
AUDIO_SUFFIXES = frozenset(
    (
        *(".wav", ".wave", ".bwf", ".flac", ".mp3", ".mp2", ".mpga", ".ogg", ".oga", ".opus", ".spx"),
        *(".m4a", ".m4b", ".mp4", ".mov", ".3gp", ".3g2", ".aac", ".adts", ".wma", ".asf", ".webm", ".weba", ".mka"),
        *(".mkv", ".amr", ".awb", ".ac3", ".ape", ".wv", ".tta", ".avi", ".flv", ".ts", ".mpg", ".mpeg"),
        *(".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64", ".sph", ".nist", ".voc"),
    )
)

# First bytes of formats that libsndfile reads better than FFmpeg, which takes long to guess PCM and does not verify
# FLAC. For Vorbis, FFmpeg loses the end of short files, and libsndfile's seeks are wrong by up to a block.
# libsndfile's mp3 decoder would write to the terminal, and trusts headers.
_SNDFILE = re.compile(rb"RIF[FX]|RF64|FORM|\.snd|caff|riff\x2e\x91|NIST|Creative Voice|fLaC")
_VORBIS = re.compile(rb"OggS.{24}\x01vorbis", re.DOTALL)
_HEAD_BYTES = 64
_OGG_START = re.compile(rb"OggS\x00[\x02\x03\x06\x07]", re.DOTALL)  # the first page of a stream
_OGG_HEAD_BYTES = 400  # within which the streams of one recording begin together
_MATROSKA = b"\x1a\x45\xdf\xa3"
_MATROSKA_START = re.compile(_MATROSKA + rb".{1,60}\x42\x82", re.DOTALL)  # and in its head the type of document
_FLAC_START = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22", re.DOTALL)


@contextmanager
def open_recording(source: Path | bytes, whole: bool = False) -> Iterator[list[Decoder]]:
    """Open a file or its bytes: one decoder for each of the recordings in it, which may be joined end to end.

    Args:
        source: its path, or its bytes.
        whole: all of it will be decoded; else only its header or a part of it is read.

    Raises:
        AudioError: missing or decode_error, also for errors while the decoders are in use.
    """
    size = _size(source)
    try:
        with ExitStack() as stack:
            decoders = []
            for part in _parts(source, size, whole):
                decoder = _open(part, len(part) if isinstance(part, bytes) else size, whole)
                stack.callback(decoder.close)
                check_claims(decoder.sample_rate, decoder.channels)
                decoders.append(decoder)
            yield decoders
    except MemoryError:
        raise AudioError("decode_error", "takes more memory than there is") from None
    except soundfile.LibsndfileError as error:
        raise AudioError("decode_error", f"cannot be decoded: {error.error_string or 'damaged'}") from None
    except (av.FFmpegError, soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        raise AudioError("decode_error", f"cannot be decoded: {getattr(error, 'strerror', None) or error}") from None


def split_channel(name: str) -> tuple[str, int | None]:
    """Return the file and the channel of a name such as `call.wav@1`; None if it names no channel."""
    file, at, number = name.rpartition("@")
    if at and number.isdecimal() and not os.path.exists(name):  # noqa: PTH110  (it may be too long for a name)
        return file, int(number)
    return name, None


def count_channels(path: str) -> int:
    """Return how many channels a recording has; 0 if it cannot be opened, which is reported when it is read."""
    try:
        with open_recording(Path(path)) as recordings:
            return max(recording.channels for recording in recordings)
    except AudioError:
        return 0


def _size(source: Path | bytes) -> int:
    """Bytes of a recording; refuses a missing or empty one."""
    if isinstance(source, bytes):
        if not source:
            raise AudioError("decode_error", "the recording is empty (0 bytes)")
        return len(source)
    try:
        is_file, size = source.is_file(), source.stat().st_size
    except (OSError, ValueError):  # missing, or a name that no file can have
        is_file = False
    if not is_file:
        raise AudioError("missing", f"there is no file {source}")
    if size == 0:
        raise AudioError("decode_error", f"{source} is empty (0 bytes)")
    return size


def _read(source: Path | bytes, place: int, count: int) -> bytes:
    if isinstance(source, bytes):
        return source[place : place + count]
    with source.open("rb") as file:
        file.seek(place)
        return file.read(count)


def _parts(source: Path | bytes, size: int, whole: bool) -> Sequence[Path | bytes]:
    """The recordings that were joined end to end, each as its bytes; the source itself if it is one recording."""
    head = _read(source, 0, 12)
    starts = [0]
    if head[:4] in (b"RIFF", b"RIFX"):
        while head[:4] in (b"RIFF", b"RIFX"):
            length = int.from_bytes(head[4:8], "little" if head[:4] == b"RIFF" else "big")
            place = starts[-1] + 8 + length + length % 2
            head = _read(source, place, 12) if length < STREAMED_WAV_BYTES and place < size else b""
            starts.append(place)
        starts.pop()
    elif head[:4] == b"OggS":
        for place in _find(source, _OGG_START):
            if place - starts[-1] > _OGG_HEAD_BYTES:
                starts.append(place)
    elif head[:4] == _MATROSKA:
        starts = _find(source, _MATROSKA_START) or [0]
    elif head[:4] == b"fLaC" and whole:  # this needs the whole file
        starts = _find(source, _FLAC_START) or [0]
    if len(starts) == 1:
        return [source]
    return [_read(source, start, end - start) for start, end in zip(starts, [*starts[1:], size], strict=True)]


def _without_length(wav: bytes) -> bytes:
    """Return a wav file with the placeholder for its length that a pipe gets: its samples end where the file ends."""
    order: Literal["little", "big"] = "little" if wav[:4] == b"RIFF" else "big"
    chunk = 12
    while wav[chunk : chunk + 4] != b"data":
        length = int.from_bytes(wav[chunk + 4 : chunk + 8], order)
        chunk += 8 + length + length % 2
        if chunk >= len(wav):
            return wav
    unknown = (0xFFFFFFFF).to_bytes(4)
    return wav[:4] + unknown + wav[8 : chunk + 4] + unknown + wav[chunk + 8 :]


def _find(source: Path | bytes, pattern: re.Pattern[bytes]) -> list[int]:
    """The places in a file where a pattern begins."""
    if isinstance(source, bytes):
        return [match.start() for match in pattern.finditer(source)]
    with source.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return [match.start() for match in pattern.finditer(content)]


class _Seeking:
    """For decoders that seek to impossible places: their bindings print errors that are raised there."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)  # type: ignore[misc]
        except (OSError, ValueError):
            return -errno.EINVAL


class _File(_Seeking, io.FileIO):
    pass


class _Bytes(_Seeking, io.BytesIO):
    pass


def _open(source: Path | bytes, size: int, whole: bool) -> Decoder:
    """Open one recording with the decoder that is best for it."""
    pcm, fault = None, None
    head = _read(source, 0, _HEAD_BYTES)
    if _SNDFILE.match(head) or (whole and _VORBIS.match(head)):
        try:
            pcm = SndfileDecoder(_Bytes(source) if isinstance(source, bytes) else str(source), size)
        except soundfile.SoundFileError as error:
            fault = error
        if pcm is not None and pcm.goes_on:
            pcm.close()
            content = _without_length(_read(source, 0, size))
            pcm = SndfileDecoder(_Bytes(content), size)
        if pcm is not None and pcm.is_believable:
            return pcm
    file = _Bytes(source) if isinstance(source, bytes) else _File(source)
    try:
        packets = PacketDecoder(file, size)
    except (av.FFmpegError, AudioError, ValueError):
        file.close()
        if pcm is not None:
            return pcm
        if fault is not None:
            raise fault from None
        raise
    if pcm is not None:
        pcm.close()
    return packets
