"""Kaldi's data folders, which ESPnet, icefall and others use too: wav.scp, text, and maybe segments and utt2spk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import UserError, printable
from .files import Files, file_versions
from .strings import Labels, shown
from .tables import LAYOUT, Columns, Table, make_table
from .textfiles import numbered_lines, open_text
from .times import parse_time

FIRST_CHANNEL = ("A", "0", "1")


def open_kaldi(path: Path, split: str | None, columns: Columns) -> Table | None:
    """Read a data folder, or that of a split below `path`; None if there is none.

    Relative paths start from the folder, or, as in Kaldi's recipes, from a folder above it.

    Raises:
        UserError: a file of it is missing or cannot be read, or a recording is the output of a command.
    """
    folder = path if split is None or path.name == split else path / split
    if not (folder / "wav.scp").is_file():
        return None
    if not (folder / "text").is_file():
        raise UserError(f"data.datasets: {folder} holds wav.scp, and no file text with the transcripts.")
    wavs = {name: _recording(folder, number, wav) for number, name, wav in _lines(folder / "wav.scp")}
    texts = {name: text for _, name, text in _lines(folder / "text")}
    speakers = {name: speaker for _, name, speaker in _lines(folder / "utt2spk")}
    _check_channels(folder)
    starts = seconds = None
    if (folder / "segments").is_file():
        segments = {name: _segment(folder, number, rest) for number, name, rest in _lines(folder / "segments")}
        names = list(dict.fromkeys([*segments, *texts]))
        parts = [segments.get(name, ("", 0.0, np.nan)) for name in names]
        paths = [wavs.get(recording, "") for recording, _, _ in parts]
        starts = np.array([start for _, start, _ in parts])
        seconds = np.array([length for _, _, length in parts], dtype=np.float32)
    else:
        names = list(dict.fromkeys([*wavs, *texts]))
        paths = [wavs.get(name, "") for name in names]
        listed = {
            name: _seconds(folder / "utt2dur", number, value) for number, name, value in _lines(folder / "utt2dur")
        }
        seconds = np.array([listed.get(name, np.nan) for name in names], dtype=np.float32)
    used = [folder / name for name in ("wav.scp", "text", "segments", "utt2spk", "utt2dur", "reco2file_and_channel")]
    return make_table(
        folder,
        f"{LAYOUT} {' '.join(file_versions(used))}",
        Files.of(folder / "wav.scp", [name for name in paths if name]),
        paths,
        [texts.get(name) for name in names],
        starts,
        seconds,
        names=[printable(name) for name in names],
        speakers=Labels(speakers.get(name, "") for name in names) if speakers else None,
    )


def _lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """The lines of a file, if there is one: number, key, and the rest."""
    if not path.is_file():
        return
    with open_text(path) as file:
        for number, line in numbered_lines(file):
            if line is None:
                raise UserError(f"data.datasets: {path} line {number} is too long to be one of Kaldi's.")
            key, _, rest = line.strip().replace("\t", " ").partition(" ")
            if key:
                yield number, key, rest.strip()


def _recording(folder: Path, number: int, wav: str) -> str:
    """The file that a line of wav.scp names."""
    place = f"data.datasets: {folder / 'wav.scp'} line {number}"
    if wav.endswith("|"):
        raise UserError(
            f"{place} is a command ({shown(wav)}), which is not run: write its output to a file first, "
            "and name that file."
        )
    if not wav:
        raise UserError(f"{place} names no recording.")
    before, colon, offset = wav.rpartition(":")
    if colon and before and offset.isdecimal():
        raise UserError(f"{place} is a place in an archive ({shown(wav)}): write the recordings to separate files.")
    return wav


def _segment(folder: Path, number: int, rest: str) -> tuple[str, float, float]:
    """Recording, start and length in seconds of a line of segments; an end of -1 is the end of the recording."""
    fields = rest.split()
    place = folder / "segments"
    if len(fields) == 4 and fields[3] in FIRST_CHANNEL:
        fields = fields[:3]
    if len(fields) != 3:
        raise UserError(
            f"data.datasets: {place} line {number} does not hold name, recording, start and end ({shown(rest)})."
        )
    start, end = max(_seconds(place, number, fields[1]), 0.0), _seconds(place, number, fields[2])
    return fields[0], start, np.nan if end == -1 else end - start


def _seconds(path: Path, number: int, field: str) -> float:
    try:
        seconds = parse_time(field)
        if not (seconds >= 0 or seconds == -1):
            raise ValueError
    except ValueError:
        raise UserError(f"data.datasets: {path} line {number}: {shown(field)} is not a time in seconds.") from None
    return seconds


def _check_channels(folder: Path) -> None:
    """Refuse segments of files with two speakers on two channels: a mix of the channels would hold both speakers."""
    for number, _, rest in _lines(folder / "reco2file_and_channel"):
        if rest.split()[-1:] and rest.split()[-1] not in FIRST_CHANNEL:
            raise UserError(
                f"data.datasets: {folder / 'reco2file_and_channel'} line {number} chooses a channel ({shown(rest)}): "
                "write each channel to a separate file first."
            )
