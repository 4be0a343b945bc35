"""Recordings in a zip that stands in the place of their folder are read as the files were."""

from __future__ import annotations

import json
import shutil
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tiny_audio.audio import AudioError, load_audio
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data.packed import pack, recording_at
from tiny_audio.data.sources import Source, open_source


def open_manifest(folder: Path) -> Source:
    return open_source(DatasetConfig(path=str(folder / "all.jsonl")), DataConfig(), folder.parent / "cache")


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """The same corpus twice: of files, and packed."""
    clips = tmp_path / "files" / "audio" / "train"
    clips.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(4):
        soundfile.write(clips / f"{number}.ogg", rng.uniform(-0.3, 0.3, 16_000), 16_000, "OPUS", format="OGG")
        rows.append({"audio": f"audio/train/{number}.ogg", "text": f"clip {number}", "duration": 1.0})
    (tmp_path / "files/all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(tmp_path / "files", tmp_path / "packed")
    pack(tmp_path / "packed/audio/train")
    return tmp_path / "files", tmp_path / "packed"


def read_sum(source: Source, row: int) -> float:
    return float(source.read(row).sum())


def test_what_is_packed_is_read_bit_for_bit_and_listed_as_before(folders):
    files, packed = map(open_manifest, folders)
    assert sorted(path.name for path in (folders[1] / "audio").iterdir()) == ["train.zip"]
    assert list(packed.names) == list(files.names)
    assert list(packed.texts) == list(files.texts)
    for row in range(4):
        np.testing.assert_array_equal(packed.read(row), files.read(row))
        np.testing.assert_array_equal(load_audio(recording_at(folders[1] / f"audio/train/{row}.ogg")), files.read(row))
    assert files.in_files
    assert not packed.in_files


def test_a_forked_worker_reads_beside_its_parent(folders):
    source = open_manifest(folders[1])
    expected = [read_sum(source, row) for row in range(4)]
    with get_context("fork").Pool(2) as pool:
        assert pool.starmap(read_sum, [(source, row) for row in range(4)] * 5) == expected * 5
    assert [read_sum(source, row) for row in range(4)] == expected


def test_the_same_recordings_make_the_same_zip(folders, tmp_path):
    clips = folders[0] / "audio/train"
    again = tmp_path / "again" / "train"
    shutil.copytree(clips, again)
    assert pack(again).read_bytes() == (folders[1] / "audio/train.zip").read_bytes()


def test_versions_tell_recordings_apart_and_change_with_the_zip(folders):
    source = open_manifest(folders[1])
    before = source.recording_versions(range(4))
    assert len(set(before)) == 4
    with (folders[1] / "audio/train.zip").open("ab") as file:
        file.write(b"x")
    assert not set(before) & set(source.recording_versions(range(4)))


def test_what_the_zip_lacks_is_missing_and_a_damaged_zip_cannot_be_read(folders):
    _, packed = folders
    with pytest.raises(AudioError, match=r"holds no 9\.ogg"):
        recording_at(packed / "audio/train/9.ogg")
    (packed / "audio/other.zip").write_bytes(b"no zip")
    with pytest.raises(AudioError, match=r"other\.zip: 1\.ogg cannot be read"):
        recording_at(packed / "audio/other/1.ogg")
