"""Folders as Kaldi, datasets, webdataset, Audacity and people themselves lay them out, and samples in parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pytest

from clips import tone, write, write_manifest
from tiny_audio.audio import load_audio
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data.sources import Source, open_source
from tiny_audio.errors import UserError


def open_at(path: Path, **settings: Any) -> Source:
    entry = DatasetConfig(path=str(path), **settings)
    data_dir = path.parent / "unpacked"
    return open_source(entry, DataConfig(max_skipped_share=0.99), path.parent / "cache", data_dir=data_dir)


def refused(path: Path, message: str, **settings: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_at(path, **settings)
    assert "\n" not in str(caught.value)


def write_files(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content, encoding="utf-8")
    return folder


# Kaldi


def kaldi(tmp_path: Path, **files: str) -> Path:
    """s5/data/train with paths that start from s5, as in Kaldi's recipes."""
    write(tmp_path / "s5" / "corpus" / "one.wav", 4.0)
    write(tmp_path / "s5" / "corpus" / "two.wav", 2.0)
    scp = "r1 corpus/one.wav\nr2   corpus/two.wav\n"
    return write_files(tmp_path / "s5" / "data" / "train", **{"wav__scp": scp, **files})


def test_a_data_folder_of_kaldi(tmp_path: Path) -> None:
    folder = kaldi(tmp_path, text="r1 One is SAID\nr2\ttwo\nr3 lost\n", utt2spk="r1 ann\nr2 bob\n", utt2dur="r1 4.0\n")
    source = open_at(folder)
    assert list(source.texts) == ["one is said", "two"]
    assert list(source.names) == ["r1", "r2"]
    assert list(source.speakers or ()) == ["ann", "bob"]
    assert source.durations.tolist() == [4.0, 2.0]
    assert [(skip.name, skip.reason) for skip in source.skipped] == [("r3", "missing")]
    assert len(source.read(1)) == 32_000
    assert len(open_at(folder.parent, split="train")) == 2
    (folder / "text").write_text("r1 other\nr2 two\n")
    assert list(open_at(folder).texts) == ["other", "two"], "what was kept is of the folder as it was"


def test_segments_of_kaldi(tmp_path: Path) -> None:
    segments = "u1 r1 0.5 1.5\nu2 r1 2.25 -1\nu3 r2 1 2.0 A\n"
    source = open_at(kaldi(tmp_path, text="u1 a\nu2 b\nu3 c\n", segments=segments))
    assert list(source.names) == ["u1", "u2", "u3"]
    assert source.durations.tolist() == [1.0, 1.75, 1.0]
    whole = load_audio(tmp_path / "s5" / "corpus" / "one.wav")
    assert np.array_equal(source.read(0), whole[8_000:24_000])
    assert np.array_equal(source.read(1), whole[36_000:])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"wav__scp": "r1 sph2pipe -f wav a.sph |\n"},
            r"line 1 is a command \(sph2pipe .* \|\), which is not",
        ),
        ({"wav__scp": "r1 raw.ark:123\n"}, "line 1 is a place in an archive"),
        ({"wav__scp": "r1\n"}, "line 1 names no recording"),
        ({}, "holds wav.scp, and no file text"),
        ({"segments": "u1 r1 0.5\n"}, r"segments line 1 does not hold name, recording, start and end \(r1 0.5\)"),
        ({"segments": "u1 r1 0 1\nu2 r1 x 2\n"}, "segments line 2: x is not a time in seconds"),
        ({"segments": "u1 r1 0 1 B\n"}, "segments line 1 does not hold"),
        ({"reco2file_and_channel": "r1 call A\nr2 call B\n"}, r"line 2 chooses a channel \(call B\)"),
    ],
)
def test_what_is_not_read_of_kaldi_is_refused(files: dict[str, str], message: str, tmp_path: Path) -> None:
    texts = {"text": "u1 a\nu2 b\n"} if files else {}
    refused(kaldi(tmp_path, **texts, **files), message)


# A transcript beside each recording


def test_a_transcript_beside_each_recording(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "corpus"
    for name in ("a.wav", "b.FLAC", "deep/c.mp3", "d.wav", "._a.wav", ".hidden/x.wav"):
        write(folder / name, 1.0, format=Path(name).suffix[1:].upper())
    write_files(folder, a__txt="One,\ntwo.", b__TXT="three", **{"._a.txt": "junk", "notes__txt": "of nobody"})
    write_files(folder / "deep", c__json=json.dumps({"text": "four", "speaker": "ann"}))
    source = open_at(folder)
    assert dict(zip(source.names, source.texts, strict=True)) == {
        "a.wav": "one two",
        "b.FLAC": "three",
        "deep/c.mp3": "four",
    }
    assert [(skip.name, skip.reason) for skip in source.skipped] == [("d.wav", "empty_text")]
    assert "1 of 4 recordings have no transcript beside them" in caplog.text
    (folder / "deep" / "c.json").write_text("{")
    assert {skip.name: skip.detail for skip in open_at(folder).skipped}["deep/c.mp3"].startswith("deep/c.json cannot")
    refused(folder / "deep", "of the split dev", split="dev")
    assert len(open_at(folder.parent, split="corpus")) == 2


LABELS = {
    "talk.txt": "0.500000\t1.500000\tone\n\\\t100.0\t200.0\n2.250000\t4.000000\ttwo\n5.0\t5.0\tpoint\n",
    "talk.srt": "1\r\n00:00:00,500 --> 00:00:01,500\r\none\r\n\r\n2\r\n00:00:02,250 --> 00:00:04,000\r\ntwo\r\n",
    "talk.vtt": "WEBVTT\n\n00:00.500 --> 00:01.500 align:start\none\n\nid\n00:02.250 --> 00:04.000\ntwo\n",
}


@pytest.mark.parametrize("name", LABELS)
def test_label_tracks_and_subtitles_are_parts_of_the_recording_beside_them(name: str, tmp_path: Path) -> None:
    whole = load_audio(write(tmp_path / "corpus" / "talk.wav", 6.0))
    (tmp_path / "corpus" / name).write_bytes(LABELS[name].encode())
    source = open_at(tmp_path / "corpus")
    assert list(source.texts) == ["one", "two"]
    assert np.array_equal(source.read(1), whole[36_000:64_000])
    assert [skip.reason for skip in source.skipped] == ["too_short"] * (name == "talk.txt")


def test_a_folder_that_is_not_known_says_what_is_there(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "one", mine__csv="x", a__TextGrid="x")
    refused(folder, r"wav.scp \(Kaldi\), .*beside each. It holds mine.csv: set path to the file")
    (folder / "mine.csv").unlink()
    refused(folder, "Files of the kind .TextGrid are not read: export them")


def test_ljspeech_as_it_is_unpacked(tmp_path: Path) -> None:
    for i in (1, 2):
        write(tmp_path / "LJSpeech-1.1" / "wavs" / f"LJ001-000{i}.wav", 1.0)
    lines = 'LJ001-0001|"Printing, in 1450|Printing, in fourteen fifty\nLJ001-0002|b|b\n'
    source = open_at(write_files(tmp_path / "LJSpeech-1.1", metadata__csv=lines))
    assert list(source.texts) == ["printing in fourteen fifty", "b"]
    assert len(source.read(1)) == 16_000


def test_cuts_that_begin_with_a_mixed_one_are_refused_by_name(tmp_path: Path) -> None:
    import lhotse

    recording = lhotse.Recording.from_file(write(tmp_path / "talk.wav", 2.0))
    said = lhotse.SupervisionSegment("talk", recording.id, 0.0, 2.0, text="one")
    cut = lhotse.MonoCut("talk", 0.0, 2.0, 0, recording=recording, supervisions=[said])
    for name in ("cuts.jsonl", "cuts.jsonl.gz"):
        lhotse.CutSet.from_cuts([cut.append(cut).with_id("two"), cut]).to_file(tmp_path / name)
        refused(tmp_path / name, "the cut two is not a plain part of an audio file; export the cuts")
    (tmp_path / "array.json").write_text(json.dumps([cut.to_dict()]))
    assert list(open_at(tmp_path / "array.json").texts) == ["one"]
    write_manifest(tmp_path / "recs.jsonl", [recording.to_dict()])
    refused(tmp_path / "recs.jsonl", "lists recordings without transcripts")


# Tables of datasets and pandas

WAVES = [tone(1.0, 8_000), tone(0.5, 8_000)]


@pytest.mark.parametrize("form", ["struct", "list", "int16", "python ints", "stereo"])
def test_samples_in_parquet_with_their_rate(form: str, tmp_path: Path) -> None:
    waves: list[Any] = [(wave * 32768).astype(np.int16) if "int" in form else wave for wave in WAVES]
    if form == "stereo":
        waves = [np.stack([wave, wave]).tolist() for wave in waves]
    if form == "python ints":
        waves = [wave.tolist() for wave in waves]
    if form == "struct":
        table = {"audio": [{"array": wave, "sampling_rate": 8_000, "path": None} for wave in waves]}
        datasets.Dataset.from_dict({**table, "text": ["one", "two"]}).to_parquet(tmp_path / "a.parquet")
    else:
        frame = pandas.DataFrame({"audio": waves, "sampling_rate": [8_000] * 2, "text": ["one", "two"]})
        frame.to_parquet(tmp_path / "a.parquet")
    source = open_at(tmp_path / "a.parquet")
    assert list(source.texts) == ["one", "two"]
    np.testing.assert_allclose(source.durations, [1.0, 0.5])
    expected = load_audio(write(tmp_path / "a.wav", 1.0, 8_000, subtype="FLOAT"))
    np.testing.assert_allclose(source.read(0), expected, atol=1e-4)
    assert len(set(source.recording_versions([0, 1]))) == 2
    assert list(source.names) == ["row 0", "row 1"]


def test_samples_without_a_rate_are_refused(tmp_path: Path) -> None:
    pandas.DataFrame({"audio": WAVES, "text": ["one", "two"]}).to_parquet(tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "not their rate in Hz: add a column sampling_rate")
    pandas.DataFrame({"audio": [1, 2], "text": ["one", "two"]}).to_parquet(tmp_path / "b.parquet")
    refused(tmp_path / "b.parquet", "holds int64 in its column audio: recordings are paths, bytes, or samples")


def test_samples_that_are_none_are_skipped(tmp_path: Path) -> None:
    rows = [
        {"audio": {"array": [0.1] * 16_000, "sampling_rate": 16_000}, "text": "one"},
        {"audio": {"array": None, "sampling_rate": 16_000}, "text": "two"},
        {"audio": {"array": [0.1], "sampling_rate": None}, "text": "three"},
        {"audio": None, "text": "four"},
    ]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    source = open_at(tmp_path / "a.parquet")
    assert [skip.reason for skip in source.skipped] == ["missing", "decode_error", "missing"]


@pytest.mark.parametrize("form", ["paths", "bytes", "path structs"])
def test_other_ways_in_which_parquet_holds_recordings(form: str, tmp_path: Path) -> None:
    content = write(tmp_path / "clips" / "a.wav", 3.0).read_bytes()
    audio: Any = {"paths": "a.wav", "bytes": content, "path structs": {"path": "clips/a.wav"}}[form]
    frame = pandas.DataFrame({"audio": [audio], "text": ["one"]})
    if form == "paths":
        frame = frame.assign(start=[0.5], end=[1.5])
    frame.to_parquet(tmp_path / "a.parquet")
    source = open_at(tmp_path / "a.parquet")
    assert len(source.read(0)) == (16_000 if form == "paths" else 48_000)


def test_rows_that_are_parts_of_a_recording_in_the_table_are_refused(tmp_path: Path) -> None:
    content = write(tmp_path / "a.wav", 6.0).read_bytes()
    rows = [{"audio": {"bytes": content, "path": None}, "text": "one", "start": 1.0, "end": 2.0}]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", r"parts of longer recordings \(row 1: 1 s of 6.0 s\): cut them to clips")
    rows[0]["end"] = 7.0  # of a clip, where it was cut from
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "b.parquet")
    assert len(open_at(tmp_path / "b.parquet").read(0)) == 96_000


def test_folders_of_save_to_disk(tmp_path: Path) -> None:
    content = write(tmp_path / "a.wav", 1.0).read_bytes()
    rows = [{"audio": {"bytes": content, "path": "a.wav"}, "text": text} for text in ("one", "two", "three")]
    whole = datasets.Dataset.from_list(rows)
    whole.select([2, 0]).save_to_disk(tmp_path / "one")
    source = open_at(tmp_path / "one")
    assert list(source.texts) == ["three", "one"]
    assert len(source.read(0)) == 16_000
    datasets.DatasetDict(train=whole, test=whole.select([1])).save_to_disk(tmp_path / "splits")
    assert list(open_at(tmp_path / "splits", split="test").texts) == ["two"]
    refused(tmp_path / "splits", "holds test, train; choose one by split")
    refused(tmp_path / "one", "is one dataset without splits", split="dev")
    next((tmp_path / "one").glob("*.arrow")).unlink()
    refused(tmp_path / "one", "cannot be read by datasets")
