"""Every recording that cannot be used, in every kind of source, ends in `skipped.jsonl` by its name."""

from __future__ import annotations

import csv
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from clips import read_lines, write, write_bad_files, write_manifest
from hub_stub import at_hub, serving
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data.loader import ClipDataset, eval_loader
from tiny_audio.data.skips import SkipLog
from tiny_audio.data.sources import open_source

LISTED = {"header_only.wav": "duration_mismatch", "short.wav": "duration_mismatch"}


def seconds_of(name: str) -> float:
    return 45.0 if name == "long.flac" else 2.0


def manifest(folder: Path, names: list[str]) -> dict[str, Any]:
    """With durations: nothing is found out before the files are read."""
    rows = [{"audio": name, "text": "word", "duration": seconds_of(name)} for name in names]
    return {"path": str(write_manifest(folder / "a.jsonl", rows))}


def segments(folder: Path, names: list[str]) -> dict[str, Any]:
    rows = [{"audio": name, "text": "word", "offset": 0.0, "duration": seconds_of(name)} for name in names]
    return {"path": str(write_manifest(folder / "a.jsonl", rows))}


def table(folder: Path, names: list[str]) -> dict[str, Any]:
    with (folder / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("audio", "text"), *((name, "word") for name in names)])
    return {"path": str(folder / "a.csv")}


def metadata(folder: Path, names: list[str]) -> dict[str, Any]:
    write_manifest(folder / "metadata.jsonl", [{"file_name": name, "text": "word"} for name in names])
    return {"path": str(folder)}


def common_voice(folder: Path, names: list[str]) -> dict[str, Any]:
    """As it is unpacked, with `clip_durations.tsv`."""
    own = folder.parent / "cv-corpus-17.0" / "en"
    own.mkdir(parents=True)
    folder.rename(own / "clips")
    rows = [("client_id", "path", "sentence"), *(("x", name, "Word.") for name in names)]
    (own / "train.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    listed = [("clip", "duration[ms]"), *((name, str(round(1000 * seconds_of(name)))) for name in names)]
    (own / "clip_durations.tsv").write_text("".join("\t".join(row) + "\n" for row in listed))
    return {"name": "common_voice", "path": str(own.parent), "split": "train"}


def common_voice_archive(folder: Path, names: list[str]) -> dict[str, Any]:
    common_voice(folder, names)
    archive = folder.parent / "cv-corpus-17.0-en.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder.parent / "cv-corpus-17.0", "cv-corpus-17.0")
    return {"name": "common_voice", "path": str(archive), "split": "train"}


def librispeech(folder: Path, names: list[str]) -> dict[str, Any]:
    """All recordings are called .flac there, whatever they are."""
    chapter = folder.parent / "LibriSpeech" / "train-clean-100" / "19" / "198"
    chapter.parent.mkdir(parents=True)
    folder.rename(chapter)
    for name in names:
        if (chapter / name).exists():
            (chapter / name).rename(chapter / f"{name}.flac")
    (chapter / "19-198.trans.txt").write_text("".join(f"{name} WORD\n" for name in names))
    return {"name": "librispeech", "path": str(folder.parent / "LibriSpeech"), "split": "train-clean-100"}


def lhotse(folder: Path, names: list[str]) -> dict[str, Any]:
    rows = []
    for name in names:
        seconds = seconds_of(name)
        sources = [{"type": "file", "channels": [0], "source": str(folder / name)}]
        recording = {"id": name, "sources": sources, "sampling_rate": 16_000}
        recording |= {"num_samples": round(seconds * 16_000), "duration": seconds, "channel_ids": [0]}
        said = {"id": name, "recording_id": name, "start": 0, "duration": seconds, "channel": 0, "text": "word"}
        cut = {"id": name, "start": 0, "duration": seconds, "channel": 0, "supervisions": [said]}
        rows.append({**cut, "recording": recording, "type": "MonoCut"})
    return {"path": str(write_manifest(folder / "cuts.jsonl", rows))}


def parquet(folder: Path, names: list[str]) -> dict[str, Any]:
    write_parquet(folder.parent / "a.parquet", folder, names)
    return {"path": str(folder.parent / "a.parquet")}


def hub(folder: Path, names: list[str]) -> dict[str, Any]:
    write_parquet(folder.parent / "hub" / "me" / "speech" / "data" / "train.parquet", folder, names)
    return {"path": "me/speech"}


def write_parquet(path: Path, folder: Path, names: list[str]) -> None:
    """With bytes where there is a file, and without durations."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in names:
        content = (folder / name).read_bytes() if (folder / name).exists() else None
        rows.append(
            {"audio": {"bytes": content, "path": name if content is not None else None}, "text": "word", "id": name}
        )
    features = datasets.Features(audio=datasets.Audio(), text=datasets.Value("string"), id=datasets.Value("string"))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, features.arrow_schema), path, row_group_size=4)


# How the corpus comes, what else is set, how many clips are asked for, and whether durations are listed.
KINDS: dict[str, tuple[Callable[[Path, list[str]], dict[str, Any]], dict[str, Any], int | None, bool]] = {
    "manifest": (manifest, {}, None, True),
    "segments": (segments, {}, None, True),
    "csv": (table, {}, None, False),
    "metadata": (metadata, {}, None, False),
    "common_voice": (common_voice, {}, None, True),
    "common_voice_archive": (common_voice_archive, {}, None, True),
    "librispeech": (librispeech, {}, None, False),
    "lhotse": (lhotse, {}, None, True),
    "parquet": (parquet, {}, None, False),
    "hub": (hub, {}, None, False),
    "hub_rows": (hub, {}, 1000, False),
    "stream": (hub, {"streaming": True}, None, False),
}


def read_all(
    endpoint: str, folder: Path, entry: dict[str, Any], data: dict[str, Any], workers: int, limit: int | None
) -> list[str]:
    """The names of the clips that can be used; the others go to `folder/skipped.jsonl`."""
    config = DataConfig(max_skipped_share=0.99, **data)
    names: list[str] = []
    with at_hub(endpoint, folder) as cache:
        source = open_source(DatasetConfig(**entry), config, cache, limit, "bad")
        log = SkipLog(folder / "skipped.jsonl", [source], 0.99)
        for batch in eval_loader(ClipDataset([source], lambda text: [1], config), 4, num_workers=workers):
            log.add(batch.skipped, batch.sources)
            names += batch.names
    return names


@pytest.mark.parametrize("kind", KINDS)
def test_unusable_clips_are_skipped_by_name(kind: str, tmp_path: Path) -> None:
    make, data, limit, listed = KINDS[kind]
    folder = tmp_path / "bad"
    due = write_bad_files(folder) | (LISTED if listed else {})
    good = [write(folder / f"good{i}.wav", 2.0).name for i in range(2)]
    entry = make(folder, [*due, *good])
    if kind == "stream":
        # Durations are guessed from the transcripts, so what was cut short cannot be told from what is short.
        due = {name: reason for name, reason in due.items() if reason != "duration_mismatch"}
        good += ["cut.wav", "cut.mp3"]
    workers = 1 if kind in ("manifest", "stream") else 0
    with serving(tmp_path / "hub") as server:
        read = read_all(server.endpoint, tmp_path, entry, data, workers, limit)
    skips = read_lines(tmp_path / "skipped.jsonl")

    def plain(name: str) -> str:
        name = Path(name).name.partition("@")[0]
        return name.removesuffix(".flac") if kind == "librispeech" else name

    assert {plain(skip["name"]): skip["reason"] for skip in skips} == due
    assert {skip["source"] for skip in skips} == {"bad"}
    assert all(skip["detail"] for skip in skips)
    assert sorted(map(plain, read)) == sorted(good)
