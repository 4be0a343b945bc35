"""Encoder outputs on disk: what is written is read, by every process, and no recording is taken for another."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from clips import write, write_manifest
from tiny_audio.audio import AudioError
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data.features import CachedClips, EncodedClip, FeatureCache, clip_keys, feature_folder, write_shard
from tiny_audio.data.loader import open_loader
from tiny_audio.data.sources import Source, open_source


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def some_clips(first: int, count: int, dtype: torch.dtype = torch.float16) -> list[EncodedClip]:
    """Clips of 1, 2, 3, ... frames of width 8, but one that is silent and one that could not be decoded."""
    generator = torch.Generator().manual_seed(first)
    clips = [
        EncodedClip(key(first + i), 1000 * i, torch.randn(i + 1, 8, generator=generator).to(dtype))
        for i in range(count)
    ]
    clips[1] = EncodedClip(key(first + 1), 32_000)
    clips[2] = EncodedClip(key(first + 2), -1, failure=("decode_error", "cannot be decoded: „it“"))
    return clips


def lookup(cache: FeatureCache, keys: list[bytes]) -> CachedClips:
    return cache.clips(dict(enumerate(keys)), len(keys))


def all_keys(source: Source) -> list[bytes]:
    return clip_keys(source.recording_versions(range(len(source))))


def assert_read(cached: CachedClips, clips: list[EncodedClip]) -> None:
    for row, clip in enumerate(clips):
        if clip.failure is not None:
            with pytest.raises(AudioError) as error:
                cached.read(row)
            assert (error.value.reason, str(error.value)) == clip.failure
        else:
            num_samples, frames = cached.read(row)
            assert num_samples == clip.num_samples
            assert len(frames) == cached.num_frames[row]
            if clip.frames is None:
                assert len(frames) == 0
            else:
                assert frames.dtype == clip.frames.dtype
                assert torch.equal(frames, clip.frames)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    first, second = some_clips(0, 9), some_clips(100, 5)
    write_shard(tmp_path, first)
    write_shard(tmp_path, second)
    write_shard(tmp_path, [EncodedClip(key(7777), 0)])  # nothing to encode in the whole shard
    cache = FeatureCache(tmp_path)
    chosen = [*second[::-1], first[4], first[2], second[0]]
    assert_read(lookup(cache, [clip.key for clip in chosen]), chosen)
    assert_read(pickle.loads(pickle.dumps(lookup(cache, [clip.key for clip in chosen]))), chosen)
    some = cache.clips({5: key(3), 1: key(104)}, 7)
    assert some.rows.tolist() == [1, 5]
    assert_read(lookup(cache, [key(3)]), [first[3]])
    assert torch.equal(some.read(5)[1], first[3].frames)
    assert torch.equal(some.read(1)[1], second[4].frames)
    with pytest.raises(AssertionError, match="outside the batches"):
        some.read(0)
    assert key(3) in cache
    assert key(50) not in cache
    assert lookup(cache, [key(7777)]).read(0)[0] == 0
    assert key(3) not in FeatureCache(tmp_path / "nowhere")


class Reader(Dataset[torch.Tensor]):
    def __init__(self, cached: CachedClips) -> None:
        self.cached = cached

    def __getitems__(self, rows: list[int]) -> torch.Tensor:
        return torch.cat([self.cached.read(row)[1] for row in rows])


@pytest.mark.parametrize("opened_before", [True, False])
def test_forked_workers_do_not_get_into_each_other_s_way(opened_before: bool, tmp_path: Path) -> None:
    frames = [torch.full((20, 16), float(number)) for number in range(300)]
    for start in (0, 150):
        write_shard(tmp_path, [EncodedClip(key(i), 1, frames[i]) for i in range(start, start + 150)])
    reader = Reader(lookup(FeatureCache(tmp_path), [key(i) for i in range(300)]))
    if opened_before:
        reader.cached.read(0), reader.cached.read(299)
    order = np.random.default_rng(0).permutation(300).reshape(100, 3).tolist()
    for rows, read in zip(order, open_loader(reader, order, num_workers=2), strict=True):
        assert torch.equal(read, torch.cat([frames[row] for row in rows]))


def test_a_damaged_shard_is_named_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for first in (0, 100):
        write_shard(tmp_path, some_clips(first, 5))
    damaged = sorted(tmp_path.iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:-10])
    cache = FeatureCache(tmp_path)
    assert (key(0) in cache) + (key(100) in cache) == 1
    assert f"{damaged} is damaged" in caplog.text
    for file in tmp_path.iterdir():
        file.unlink()
    assert key(0) not in FeatureCache(tmp_path)


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_shard(tmp_path, some_clips(0, 5))
    assert list(tmp_path.iterdir()) == []


def test_encoders_do_not_share_a_folder() -> None:
    arguments = [(fingerprint, convention) for fingerprint in "ab" for convention in ("packed", "30 s")]
    assert len({feature_folder(Path(), *given) for given in arguments}) == 4


def open_manifest(path: Path, cache: Path, **data: object) -> Source:
    return open_source(DatasetConfig(path=str(path)), DataConfig(**data), cache)  # type: ignore[arg-type]


def test_a_clip_is_known_by_its_recording_alone(tmp_path: Path) -> None:
    rows = [{"audio": f"{i}.wav", "text": f"Clip, {i}!", "duration": 1.0} for i in range(4)]
    for row in rows[:3]:
        write(tmp_path / "a" / str(row["audio"]), 1.0)
    manifest = write_manifest(tmp_path / "a/all.jsonl", rows)
    source = open_manifest(manifest, tmp_path)
    keys = all_keys(source)
    assert len(set(keys)) == 4

    assert all_keys(open_manifest(manifest, tmp_path, text_case="keep", keep_punctuation=True)) == keys
    assert all_keys(source.subset(np.array([3, 1]))) == [keys[3], keys[1]]
    told = write_manifest(tmp_path / "a/other.jsonl", [{**row, "text": "else", "duration": 1.1} for row in rows[::-1]])
    assert all_keys(open_manifest(told, tmp_path)) == keys[::-1]

    shutil.copytree(tmp_path / "a", tmp_path / "b")  # the same names, sizes and times in another folder
    assert not set(all_keys(open_manifest(tmp_path / "b/all.jsonl", tmp_path))) & set(keys)

    before = (tmp_path / "a/1.wav").stat()
    write(tmp_path / "a/1.wav", 1.5)
    os.utime(tmp_path / "a/1.wav", ns=(before.st_atime_ns, before.st_mtime_ns))  # another size
    os.utime(tmp_path / "a/2.wav", ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # another time
    write(tmp_path / "a/3.wav", 1.0)  # was missing
    now = all_keys(open_manifest(manifest, tmp_path))
    assert [one == other for one, other in zip(now, keys, strict=True)] == [True, False, False, False]


def test_recordings_in_a_table_change_with_it(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside.wav", 1.0)
    inside = [write(tmp_path / f"{i}.wav", seconds).read_bytes() for i, seconds in enumerate((1.0, 1.2))]

    def keys(name: str, recordings: list[bytes]) -> list[bytes]:
        rows = [{"audio": {"bytes": content, "path": "same.wav"}, "text": "a"} for content in recordings]
        rows += [{"audio": {"bytes": None, "path": "outside.wav"}, "text": "a"}]
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / name)
        return all_keys(open_source(DatasetConfig(path=str(tmp_path / name)), DataConfig(), tmp_path))

    first = keys("a.parquet", inside)
    assert len(set(first)) == 3
    assert all_keys(open_source(DatasetConfig(path=str(tmp_path / "a.parquet")), DataConfig(), tmp_path)) == first
    other = keys("b.parquet", inside)
    assert not set(other[:2]) & set(first)
    assert other[2] == first[2], "one and the same file"
    (tmp_path / "a.parquet").unlink()
    assert not set(keys("a.parquet", inside[::-1])[:2]) & set(first)
    write(outside, 1.3)
    assert keys("b.parquet", inside)[2] != first[2]
