"""Archives: each is unpacked into a folder of its own, and read as what it holds."""

from __future__ import annotations

import json
import os
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clips import tone, write, write_manifest
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data.archives import content_of, unpack
from tiny_audio.data.sources import Source, open_source
from tiny_audio.errors import UserError


def open_at(path: Path, tmp_path: Path, **settings: Any) -> Source:
    entry = DatasetConfig(path=str(path), **settings)
    data = DataConfig(max_skipped_share=0.99)
    return open_source(entry, data, tmp_path / "cache", data_dir=tmp_path / "data")


def corpus(folder: Path, text: str, seconds: float = 1.0) -> Path:
    """A manifest beside a single folder of clips."""
    write(folder / "clips" / "a.wav", seconds)
    write_manifest(folder / "manifest.jsonl", [{"audio": "clips/a.wav", "text": text}])
    return folder


def pack(archive: Path, folder: Path, inside: str = ".") -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in sorted(folder.rglob("*")):
                file.write(path, Path(inside) / path.relative_to(folder))
        return archive
    with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as tar:
        tar.add(folder, inside)
    return archive


class Unmarked(zipfile.ZipInfo):
    """A member as macOS writes it: its name is UTF-8, and not marked as such."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.filename.encode(), self.flag_bits


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
@pytest.mark.parametrize("inside", [".", "corpus"])
def test_a_manifest_beside_one_folder_of_clips(name: str, inside: str, tmp_path: Path) -> None:
    archive = pack(tmp_path / name, corpus(tmp_path / "x", "one"), inside)
    source = open_at(archive, tmp_path)
    assert list(source.texts) == ["one"]
    assert len(source.read(0)) == 16_000


def test_two_archives_of_one_name_never_mix(tmp_path: Path) -> None:
    first = pack(tmp_path / "1" / "speech.tar", corpus(tmp_path / "x", "one", 1.0))
    second = pack(tmp_path / "2" / "speech.tar", corpus(tmp_path / "y", "two", 2.0))
    one, two = open_at(first, tmp_path), open_at(second, tmp_path)
    assert [list(one.texts), list(two.texts)] == [["one"], ["two"]]
    assert [len(one.read(0)), len(two.read(0))] == [16_000, 32_000]


def test_a_corrected_archive_is_unpacked_anew_and_an_old_one_is_found_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive = pack(tmp_path / "speech.tar", corpus(tmp_path / "x", "one"))
    before = unpack([archive], tmp_path / "data")
    marker = (before / ".unpacked").stat().st_mtime_ns
    assert unpack([archive], tmp_path / "data") == before
    assert (before / ".unpacked").stat().st_mtime_ns == marker
    size, written = archive.stat().st_size, archive.stat().st_mtime_ns
    pack(archive, corpus(tmp_path / "x", "two"))  # of the same size
    os.utime(archive, ns=(written + 10**9, written + 10**9))
    assert archive.stat().st_size == size
    assert list(open_at(archive, tmp_path).texts) == ["two"]
    assert f"{before} holds an earlier version of the archive, and can be deleted" in caplog.text


def test_runs_side_by_side_unpack_an_archive_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive = pack(tmp_path / "speech.tar", corpus(tmp_path / "x", "one"))
    caplog.set_level("INFO")
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: unpack([archive], tmp_path / "data"), range(4)))
    assert len(folders) == 1
    assert caplog.text.count("GB) into") == 1


def test_shards_of_webdataset(tmp_path: Path) -> None:
    for shard in range(2):
        folder = tmp_path / "plain" / str(shard)
        for i in range(2):
            write(folder / f"{shard}{i}.flac", 1.0 + i)
            (folder / f"{shard}{i}.json").write_text(json.dumps({"text": f"clip {shard}{i}"}))
        pack(tmp_path / "shards" / f"train-00000{shard}.tar", folder)
    pack(tmp_path / "shards" / "dev-000000.tar", tmp_path / "plain" / "1")
    source = open_at(tmp_path / "shards", tmp_path, split="train")
    assert list(source.texts) == ["clip 00", "clip 01", "clip 10", "clip 11"]
    assert len(source.read(3)) == 32_000
    assert len(open_at(tmp_path / "shards" / "dev-000000.tar", tmp_path)) == 2


def test_what_macos_adds_to_an_archive_is_left_out(tmp_path: Path) -> None:
    archive = tmp_path / "speech.zip"
    folder = corpus(tmp_path / "x", "one")
    (folder / "clips" / "été.wav").write_bytes((folder / "clips" / "a.wav").read_bytes())
    write_manifest(folder / "manifest.jsonl", [{"audio": "clips/été.wav", "text": "one"}])
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*.*")):
            name = f"corpus/{path.relative_to(folder)}"
            file.writestr(Unmarked(name), path.read_bytes())
            file.writestr(f"__MACOSX/{Path(name).parent}/._{path.name}", b"junk")
    assert list(open_at(archive, tmp_path).texts) == ["one"]
    assert content_of(unpack([archive], tmp_path / "data")).name == "corpus"
    assert not list((tmp_path / "data").rglob("._*"))


def test_names_that_no_disk_takes_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = corpus(tmp_path / "x", "one")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(folder / "clips" / "a.wav", "x" * 300 + ".wav")
        tar.add(folder / "clips" / "a.wav", "caf\udce9.wav")
        tar.add(folder, ".")
    source = open_at(tmp_path / "a.tar", tmp_path)
    assert list(source.texts) == ["one"]
    assert "1 files have names that a disk does not allow, and are left out: xxx" in caplog.text
    assert len(list((tmp_path / "data").rglob("caf*.wav"))) == 1


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz", "a.tar.xz", "a.tar.bz2"])
@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + b"\0" * 17, b"\x1f\x8b\x08" + b"\0" * 40])
def test_what_is_no_archive_is_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} cannot be unpacked into|holds no manifest.jsonl") as caught:
        open_at(tmp_path / name, tmp_path)
    assert "\n" not in str(caught.value)


def test_an_archive_that_leads_out_of_its_folder_writes_nothing_there(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("../../outside.wav", tone(1.0).tobytes())
        file.writestr("/absolute.wav", b"x")
    unpack([tmp_path / "a.zip"], tmp_path / "data" / "deep")
    inside = {str(path.relative_to(tmp_path)).split("/")[0] for path in tmp_path.rglob("*.wav")}
    assert inside == {"data"}
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        tar.addfile(link)
    with pytest.raises(UserError, match=r"b\.tar cannot be unpacked"):
        unpack([tmp_path / "b.tar"], tmp_path / "data" / "deep")


def test_a_zip_that_would_fill_the_disk_is_refused_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny_audio.data import archives

    archive = pack(tmp_path / "a.zip", corpus(tmp_path / "x", "one"))
    usage = archives.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda folder: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"it needs 0.0 GB, and 0.0 GB are free"):
        unpack([archive], tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*.wav"))
