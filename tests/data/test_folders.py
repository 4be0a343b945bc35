"""Corpora as their makers hand them out: trees, archives, segments of long recordings, lhotse's manifests."""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from clips import tone, write, write_manifest
from tiny_audio.audio import load_audio
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data.archives import unpack
from tiny_audio.data.sources import Source, open_source
from tiny_audio.errors import UserError


def open_at(path: Path, tmp_path: Path, **settings: Any) -> Source:
    entry = DatasetConfig(path=str(path), **settings)
    return open_source(entry, DataConfig(), tmp_path / "cache", data_dir=tmp_path / "data")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two splits, of which one has two speakers."""
    for split, speaker, chapter, count in (
        ("train-clean-100", 19, 198, 2),
        ("train-clean-100", 26, 495, 1),
        ("dev", 84, 1, 1),
    ):
        folder = tmp_path / "LibriSpeech" / split / str(speaker) / str(chapter)
        lines = []
        for i in range(count):
            write(folder / f"{speaker}-{chapter}-{i:04d}.flac", 1.0 + i)
            lines.append(f"{speaker}-{chapter}-{i:04d} IT'S NUMBER {'ONE' if i else 'NOUGHT'}\n")
        (folder / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))
    return tmp_path / "LibriSpeech"


@pytest.mark.parametrize("parent", [False, True])
def test_a_librispeech_tree(parent: bool, tree: Path, tmp_path: Path) -> None:
    source = open_at(tree.parent if parent else tree, tmp_path, name="librispeech", split="train-clean-100")
    assert list(source.texts) == ["it's number nought", "it's number one", "it's number nought"]
    assert list(source.names) == ["19/198/19-198-0000.flac", "19/198/19-198-0001.flac", "26/495/26-495-0000.flac"]
    assert source.speakers is not None
    assert list(source.speakers) == ["19", "19", "26"]
    np.testing.assert_allclose(source.durations, [1, 2, 1])
    assert len(source.read(1)) == 32_000
    with pytest.raises(UserError, match="holds dev, train-clean-100; choose one by split"):
        open_at(tree, tmp_path)


def test_an_archive_is_unpacked_once_below_the_data_folder(tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "train-clean-100.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tree / "train-clean-100", "LibriSpeech/train-clean-100")
    source = open_at(archive, tmp_path, name="librispeech", split="train-clean-100")
    assert len(source) == 3
    [clip] = (tmp_path / "data").glob("train-clean-100-*/LibriSpeech/train-clean-100/19/198/19-198-0000.flac")
    before = clip.stat().st_mtime_ns
    assert len(open_at(archive, tmp_path, name="librispeech", split="train-clean-100").read(0)) == 16_000
    assert clip.stat().st_mtime_ns == before

    archive.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"train-clean-100.tar.gz cannot be unpacked into .*/train-clean-100-.* \("):
        open_at(archive, tmp_path, name="librispeech", split="train-clean-100")


def test_an_archive_writes_nowhere_else(tmp_path: Path) -> None:
    archive = tmp_path / "bad.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(write(tmp_path / "a.wav", 1.0), "../../outside.wav")
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack([archive], tmp_path / "data" / "deep")
    assert not list(tmp_path.rglob("outside.wav"))


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_segments_are_read_from_their_place(suffix: str, tmp_path: Path) -> None:
    wave = tone(6.0, 8_000)
    soundfile.write(tmp_path / f"long.{suffix}", wave, 8_000)
    rows = [
        {"audio": f"long.{suffix}", "text": "a", "offset": 1.5, "duration": 2.0},
        {"audio": f"long.{suffix}", "text": "b", "offset": 0, "duration": 1.0},
        {"audio": f"long.{suffix}", "text": "c", "offset": 4.25},
    ]
    source = open_at(write_manifest(tmp_path / "a.jsonl", rows), tmp_path)
    assert list(source.names) == [f"long.{suffix}@1.5", f"long.{suffix}@0", f"long.{suffix}@4.25"]
    np.testing.assert_allclose(source.durations, [2.0, 1.0, 1.75])
    whole = load_audio(tmp_path / f"long.{suffix}")
    for row, (start, stop) in enumerate(((1.5, 3.5), (0, 1), (4.25, 6))):
        segment = source.read(row)
        assert len(segment) == (stop - start) * 16_000
        inner = slice(400, -400)  # the resampler's edges differ
        np.testing.assert_allclose(
            segment[inner], whole[round(start * 16_000) : round(stop * 16_000)][inner], atol=2e-3
        )
    versions = source.recording_versions([0, 1, 2])
    assert len(set(versions)) == 3


def lhotse_rows(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A recording of 5 s with two supervisions."""
    file = write(folder / "talk.wav", 5.0)
    recording = {"id": "talk", "sources": [{"type": "file", "channels": [0], "source": str(file)}]}
    recording |= {"sampling_rate": 16_000, "num_samples": 80_000, "duration": 5.0, "channel_ids": [0]}
    said = [
        {"id": f"talk-{i}", "recording_id": "talk", "start": start, "duration": 1.5, "channel": 0}
        | {"text": text, "speaker": "ann"}
        for i, (start, text) in enumerate(((0.5, "Well,"), (3.0, "that's it.")))
    ]
    return [recording], said


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_lhotse_cuts_and_supervisions(gz: str, tmp_path: Path) -> None:
    import lhotse

    recordings, supervisions = lhotse_rows(tmp_path)
    write_manifest(tmp_path / "a_recordings_train.jsonl", recordings)
    path = write_manifest(tmp_path / "a_supervisions_train.jsonl", supervisions)
    source = open_at(path, tmp_path)
    assert list(source.texts) == ["well", "that's it"]
    np.testing.assert_allclose(source.durations, [1.5, 1.5])
    assert np.array_equal(source.read(1), load_audio(tmp_path / "talk.wav")[48_000:72_000])
    assert source.speakers is not None
    assert set(source.speakers) == {"ann"}

    cuts = lhotse.CutSet.from_manifests(
        recordings=lhotse.RecordingSet.from_dicts(recordings),
        supervisions=lhotse.SupervisionSet.from_dicts(supervisions),
    )
    cuts.to_file(tmp_path / f"cuts.jsonl{gz}")
    whole = open_at(tmp_path / f"cuts.jsonl{gz}", tmp_path)
    assert list(whole.texts) == ["well that's it"]
    assert len(whole.read(0)) == 80_000
    assert list(open_at(tmp_path, tmp_path).texts) == ["well that's it"]  # the folder that it lies in

    cuts.perturb_speed(1.1).to_file(tmp_path / "fast.jsonl")
    with pytest.raises(UserError, match="is not a plain part of an audio file; export"):
        open_at(tmp_path / "fast.jsonl", tmp_path)


def test_lhotse_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_manifest(tmp_path / "supervisions.jsonl", lhotse_rows(tmp_path)[1])
    with pytest.raises(UserError, match=r"needs its recordings beside it, recordings.jsonl"):
        open_at(path, tmp_path)
    monkeypatch.setitem(sys.modules, "lhotse", None)
    with pytest.raises(UserError, match=r"install it with pip install 'tiny-audio\[lhotse\]'"):
        open_at(path, tmp_path)


def test_a_local_copy_of_a_repository_needs_no_hub(tmp_path: Path) -> None:
    """A folder with the layout of the known repository, by the corpus's own names of its splits."""
    import datasets

    for part, text in (("clean/train.360", "LONG"), ("clean/train.100", "SHORT")):
        file = tmp_path / "copy" / part / "0000.parquet"
        file.parent.mkdir(parents=True)
        content = write(tmp_path / "a.wav", 1.0).read_bytes()
        datasets.Dataset.from_list([{"audio": {"bytes": content, "path": "a.wav"}, "text": text}]).to_parquet(file)
    entry = {"name": "librispeech", "split": "train-clean-100"}
    assert list(open_at(tmp_path / "copy", tmp_path, **entry).texts) == ["short"]
    assert json.dumps(list(open_at(tmp_path / "copy", tmp_path, name="librispeech").texts)) == '["long"]'
