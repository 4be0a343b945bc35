"""Manifests as other programs and other systems write them, and rows that do not fit."""

from __future__ import annotations

import gzip
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clips import write, write_manifest
from tiny_audio.audio import AudioError, load_audio
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data.files import Files
from tiny_audio.data.index import Skip
from tiny_audio.data.skips import SkipLog
from tiny_audio.data.sources import Source, open_source
from tiny_audio.data.times import parse_time
from tiny_audio.errors import UserError

LENIENT = DataConfig(max_skipped_share=0.99)


def open_at(path: Path, **settings: Any) -> Source:
    return open_source(DatasetConfig(path=str(path), **settings), LENIENT, path.parent / "cache")


def texts(path: Path, **settings: Any) -> list[str]:
    return list(open_at(path, **settings).texts)


def refused(path: Path, message: str, **settings: Any) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_at(path, **settings)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


def written(folder: Path, name: str, content: str | bytes) -> Path:
    """A manifest beside a.wav and b.wav of 1 and 2 s."""
    for clip, seconds in (("a", 1.0), ("b", 2.0)):
        write(folder / f"{clip}.wav", seconds)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / name


def skips(source: Source) -> dict[str, str]:
    return {skip.name: f"{skip.reason}: {skip.detail}" for skip in source.skipped}


# Where rows begin and end.


@pytest.mark.parametrize(
    "times",
    [
        {"start": 1.5, "end": 3.5},
        {"start_time": 1.5, "end_time": 3.5},
        {"begin": "00:00:01.5", "end": "0:03,5"},
        {"onset": "1,5", "offset": "3,5"},
        {"start": "1.5 s", "stop": 3.5, "duration": 60.0},
        {"start_ms": 1500, "end_ms": 3500},
        {"Start Time": "1.5", "End Time": "3.5"},
        {"segment_start": 1.5, "segment_end": 3.5},
        {"offset": 1.5, "duration": 2.0},
        {"start": 1.5, "duration_ms": 2000},
        {"start": 1.5, "start_ms": 1500, "end": 3.5},
        {"tmin": 1.5, "tmax": 3.5},
        {"t_start": 1.5, "t_end": 3.5},
        {"timestamp_start": "1.5", "timestamp_end": "3.5"},
    ],
    ids=lambda times: "-".join(times).replace(" ", "_"),
)
def test_a_row_with_times_is_that_part_of_its_recording(times: dict[str, Any], tmp_path: Path) -> None:
    whole = load_audio(write(tmp_path / "talk.wav", 6.0))
    source = open_at(write_manifest(tmp_path / "a.jsonl", [{"audio": "talk.wav", "text": "x", **times}]))
    assert source.durations.tolist() == [2.0]
    assert np.array_equal(source.read(0), whole[24_000:56_000])


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ({"end": 3.5}, "has a column end, but no column start; add it"),
        ({"start": 1.5}, "where its rows begin, but not where they end: add a column end or duration"),
        ({"start": "soon", "end": 3}, r"line 1: start is soon, which is not a time; write seconds \(1.5\)"),
        ({"start": 1, "end": "0:75"}, "line 1: end is 0:75, which is not a time"),
        ({"start": -1, "end": 1}, "line 1: start is -1, which is not a time"),
        ({"start": None, "end": 1}, "line 1 has end.* no start"),
        ({"start": 1, "start_time": 2, "end": 3}, "has both start and start_time, which differ"),
        ({"start_sample": 16_000, "end_sample": 32_000}, "counts end_sample in sample, not in time"),
        (
            {"start_in_call": 1.5, "length": 2},
            "has a column start_in_call, which may say where its rows begin: name it start",
        ),
    ],
    ids=str,
)
def test_times_that_cannot_be_understood_are_refused(times: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path / "talk.wav", 6.0)
    refused(write_manifest(tmp_path / "a.jsonl", [{"audio": "talk.wav", "text": "x", **times}]), message)


def test_a_part_that_ends_before_it_begins_is_skipped_by_name(tmp_path: Path) -> None:
    write(tmp_path / "talk.wav", 6.0)
    rows = [{"audio": "talk.wav", "text": "x", "start": s, "end": e} for s, e in ((1, 2), (3, 2.5), (4, 4))]
    found = skips(open_at(write_manifest(tmp_path / "a.jsonl", rows)))
    assert found == {
        "talk.wav@3": "too_short: -0.50 s is shorter than 0.1 s",
        "talk.wav@4": "too_short: 0.00 s is shorter than 0.1 s",
    }


def test_times_as_people_write_them() -> None:
    written = {"1:02:03.5": 3723.5, "90:00": 5400.0, "00:00:01,5": 1.5, " 7 sec": 7.0, "1e1": 10.0, 3: 3.0, "": None}
    for text, seconds in written.items():
        assert parse_time(text) == seconds or (seconds is None and np.isnan(parse_time(text)))
    for text in ("1:60:00", "x", "1.2.3", True, [1], "inf", "-"):
        with pytest.raises(ValueError, match=r"."):
            parse_time(text)


# What programs write.


JSON_FORMS = {
    "array": [{"audio": "a.wav", "text": "One."}, {"audio": "b.wav", "text": "two"}],
    "under a key": {"data": [{"audio": "a.wav", "text": "one"}, {"audio": "b.wav", "text": "two"}]},
    "columns": {"audio": ["a.wav", "b.wav"], "text": ["one", "two"]},
    "pandas": {"audio": {"0": "a.wav", "1": "b.wav"}, "text": {"0": "one", "1": "two"}},
    "by id (SpeechBrain)": {
        "x": {"wav": "{data_root}/a.wav", "words": "one"},
        "y": {"wav": "{data_root}/b.wav", "words": "two"},
    },
    "audio as objects": [{"audio": {"path": "a.wav"}, "text": "one"}, {"audio": {"path": "b.wav"}, "text": "two"}],
}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("form", JSON_FORMS)
def test_json_documents(form: str, indent: int | None, tmp_path: Path) -> None:
    path = written(tmp_path, "a.json", json.dumps(JSON_FORMS[form], indent=indent))
    assert texts(path) == ["one", "two"]
    if form == "array":
        path.rename(tmp_path / "a.jsonl")
        assert texts(tmp_path / "a.jsonl") == ["one", "two"]


TABLES = {
    "a.csv": "audio;text\na.wav;Well, one\nb.wav;two\n",
    "b.csv": "audio\ttext\na.wav\tWell, one\nb.wav\ttwo\n",
    "c.csv": "sep=;\r\naudio;text\r\na.wav;Well, one\r\nb.wav;two\r\n",
    "d.tsv": "audio,text\na.wav,well one\nb.wav,two\n",
    "e.txt": "a.wav|Well, one\nb.wav|two\n",
    "f.csv": "a.wav,well one\nb.wav,two\n",
    "g.psv": "audio|text\na.wav|well one\nb.wav|two\n",
    "h.csv": "Audio File,Transcript,,\na.wav,well one,,\nb.wav,two,,\n\n,,\n",
    "i.csv": "wav_filename,wav_filesize,transcript\na.wav,3,well one\nb.wav,4,two\n",
    "j.csv": "ID,duration,wav,spk_id,wrd\n1,1,$data_root/a.wav,x,well one\n2,2,$data_root/b.wav,y,two\n",
    "metadata.csv": 'a|"Well, 1|well one\nb|2|two\n',
    "k.csv": 'audio,text\na.wav,"well\none"\nb.wav,"two"\n',
    "l.tsv": 'path\tsentence\na.wav\t"Well" one\nb.wav\t"two\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_with_any_delimiter(name: str, tmp_path: Path) -> None:
    assert texts(written(tmp_path, name, TABLES[name])) == ["well one", "two"]


def test_a_table_whose_columns_have_no_names_asks_for_them(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "a.wav|ann|one\nb.wav|bob|two\n")
    refused(path, r"has no heading, and 3 columns; let its first line name them, such as audio\|speaker\|text")


def test_a_manifest_of_nemo(tmp_path: Path) -> None:
    rows = [{"audio_filepath": "a.wav", "offset": 0.25, "duration": 0.5, "text": "one", "lang": "en"}]
    source = open_at(written(tmp_path, "a.json", json.dumps(rows[0]) + "\n"))
    assert len(source.read(0)) == 8_000


TASK = {
    "id": 1,
    "data": {"audio": "/data/upload/3/0123abcd-a.wav"},
    "annotations": [
        {"result": [{"type": "textarea", "value": {"text": ["old"]}}], "updated_at": "2024-01-01T00:00:00Z"},
        {
            "updated_at": "2024-02-01T00:00:00Z",
            "result": [
                {"id": "x", "type": "labels", "value": {"start": 0.25, "end": 0.75, "labels": ["Ann"]}},
                {"id": "x", "type": "textarea", "value": {"start": 0.25, "end": 0.75, "text": ["Hello", "there"]}},
            ],
        },
        {"result": [], "was_cancelled": True, "updated_at": "2025-01-01T00:00:00Z"},
    ],
}


def test_tasks_of_label_studio(tmp_path: Path) -> None:
    whole = {"id": 2, "data": {"audio": "/data/local-files/?d=b.wav"}, "annotations": []}
    said = [{"type": "textarea", "value": {"text": ["all of it"]}}]
    whole["annotations"] = [{"result": said}]
    bare = {"id": 3, "data": {"audio": "/data/upload/3/0123abcd-a.wav"}, "annotations": []}
    path = written(tmp_path, "export.json", json.dumps([TASK, bare]))
    source = open_at(path)
    assert list(source.texts) == ["hello there"]
    assert len(source.read(0)) == 8_000
    assert list(source.speakers or ()) == ["Ann"]
    assert [skip.reason for skip in source.skipped] == ["empty_text"]
    assert texts(written(tmp_path, "b.json", json.dumps([whole]))) == ["all of it"]


def test_short_forms_of_label_studio(tmp_path: Path) -> None:
    row = {"audio": "a.wav", "id": 1, "annotator": 1, "annotation_id": 5}
    minimal = [row | {"transcription": ["one", "two"]}, row | {"audio": "b.wav", "transcription": {"text": ["three"]}}]
    assert texts(written(tmp_path, "min.json", json.dumps(minimal))) == ["one two", "three"]
    regions = json.dumps([{"start": 0.5, "end": 1.0, "text": ["one"]}]).replace('"', '""')
    table = f'annotation_id,annotator,audio,transcription\n1,1,a.wav,"{regions}"\n'
    assert len(open_at(written(tmp_path, "a.csv", table)).read(0)) == 8_000
    apart = [row | {"transcription": ["one"], "labels": [{"start": 0.5, "end": 1.0, "labels": ["x"]}]}]
    refused(written(tmp_path, "apart.json", json.dumps(apart)), "item 1 does not say which .*: export it .* as JSON")


# What systems do to text and to names.


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_as_windows_and_old_macs_write_it(
    encoding: str, end: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["audio;text", "a.wav;Le café “d\u2019été”", "b.wav;two", ""]
    assert texts(written(tmp_path, "a.csv", end.join(lines).encode(encoding))) == ["le café d'été", "two"]
    assert ("read as Windows-1252 (café, été)" in caplog.text) == (encoding == "cp1252")
    if end != "\r":
        rows = end.join(json.dumps({"audio": "a.wav", "text": "café"}, ensure_ascii=False) for _ in range(2))
        assert texts(written(tmp_path, "b.jsonl", rows.encode(encoding))) == ["café"] * 2


@pytest.mark.parametrize("encoding", ["cp949", "cp1251", "shift-jis", "gb18030"])
def test_text_of_another_code_page_is_never_taken_for_western(encoding: str, tmp_path: Path) -> None:
    said = {"cp949": "안녕하세요 여러분", "cp1251": "добрый день", "shift-jis": "こんにちは", "gb18030": "你好世界"}
    content = f"audio,text\na.wav,{said[encoding]}\n".encode(encoding)
    refused(written(tmp_path, "a.csv", content), "is not text in UTF-8 .*; save it as UTF-8")


@pytest.mark.parametrize(
    "name",
    [
        r"clips\été.wav",
        r".\clips\été.wav",
        r"C:\Users\me\corpus\clips\été.wav",
        "/Users/me/corpus/clips/été.wav",
        "clips/été.wav",
        "clips/%C3%A9t%C3%A9.wav",
        "file:///Users/me/corpus/clips/%C3%A9t%C3%A9.wav",
        "été.wav",
        "corpus/clips/été.wav",
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_paths_of_other_systems_lead_to_the_files(name: str, form: Any, tmp_path: Path) -> None:
    write(tmp_path / "corpus" / "clips" / (unicodedata.normalize(form, "été") + ".wav"), 1.0)
    for written_form in ("NFC", "NFD"):
        rows = [{"audio": unicodedata.normalize(written_form, name), "text": "x"}]
        assert len(open_at(write_manifest(tmp_path / "corpus" / "a.jsonl", rows)).read(0)) == 16_000


def test_names_of_files_that_are_not_utf8_are_found(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.wav").write_bytes(b"x")
    for name in ("café.wav", "caf\udce9.wav"):
        assert Files.of(tmp_path / "a.csv", [name]).path(name).read_bytes() == b"x"


def test_names_that_no_file_can_have_are_missing_and_the_rest_stands(tmp_path: Path) -> None:
    bad = ["x" * 300 + ".wav", "half\ud800.wav", "nul\0.wav", "https://host/x.wav", "", "a\nb.wav"]
    rows = [{"audio": name, "text": "x"} for name in ("a.wav", *bad, "b.wav")]
    source = open_at(write_manifest(written(tmp_path, "a.jsonl", ""), rows))
    assert list(source.names) == ["a.wav", "b.wav"]
    assert [skip.reason for skip in source.skipped] == ["missing"] * len(bad)
    details = [skip.detail for skip in source.skipped]
    assert "has 304 bytes" in details[0]
    assert r"half\ud800.wav is not a text" in details[1]
    assert "is on a server: download it" in details[3]
    assert all(skip.name.isprintable() for skip in source.skipped)
    assert len(source.recording_versions([0, 1])) == 2


# Rows that do not fit.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("audio,text\na.wav,one\na.wav,Well, had a thought, in her\nb.wav,two\n", "line 3: 4 fields"),
        ("audio,text\na.wav,one\nb.wav\n", "line 3: 1 field"),
        ('audio,text\na.wav,"one\nb.wav,two\nb.wav,three"\n', "line 2: a quotation mark that is closed only on line 4"),
        ('audio,text\na.wav,"one\nb.wav,two\n', "line 2: a quotation mark is in the wrong place"),
        ('audio,text\na.wav,"one" two\nb.wav,two\n', "line 2: a quotation mark is in the wrong place"),
        ('audio,text\na.wav,"one\nb.wav,"two"\n', "line 2: a quotation mark is in the wrong place"),
        ("audio,text,text\na.wav,one,two\n", "has two columns text"),
        ("audio,text\na.wav,one\nand more\nb.wav,two, three\n", "line 3: 1 field; line 4: 3 fields"),
    ],
)
def test_a_row_that_does_not_fit_is_an_error_with_its_line(content: str, message: str, tmp_path: Path) -> None:
    refused(written(tmp_path, "a.csv", content), message)


def test_a_tsv_with_a_field_too_many_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, "a.tsv", "path\tsentence\na.wav\tone\nb.wav\ttwo\tthree\n")
    refused(path, "a.tsv: lines that do not fit the heading: line 3: 3 fields. A field with a tab")


def test_rows_that_cannot_be_read_are_skipped_by_their_line_and_the_rest_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny_audio.data import delimited, rows, textfiles

    for module in (delimited, rows, textfiles):
        monkeypatch.setattr(module, "MAX_LINE", 1_000_000)
    good = '{"audio": "a.wav", "text": "one"}'
    lines = [
        good,
        '{"audio": "b.wav", "text": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"audio": "b.wav", "text": "' + "x" * 2_000_000 + '"}',
        '{"audio": "b.wav", "text": "' + "x " * 100_000 + '"}',
        '{"audio": "b.wav", "text": {"a": 1}}',
        '{"audio": ["a.wav", "b.wav"], "text": "two"}',
        '{"audio": {"array": [0.1], "sampling_rate": 16000}, "text": "two"}',
        '{"audio": "a.wav", "text": NaN}',
        '{"audio": "a.wav", "text": "half \\ud800 a\\nword"}',
        '{"audio": "b.wav", "text": "last"}',
    ]
    source = open_at(written(tmp_path, "a.jsonl", "\n".join(lines)))
    assert list(source.texts) == ["one", "half a word", "last"]
    reasons = [(skip.name, skip.reason, skip.detail) for skip in source.skipped]
    assert [reason for _, reason, _ in reasons] == ["bad_row"] * 6 + ["empty_text"]
    assert reasons[0] == ("line 2", "bad_row", "its JSON is nested too deep to be read")
    assert reasons[1] == ("line 3", "bad_row", "the line is longer than 1,000,000 characters")
    assert "has 200,000 characters, more than 100,000" in reasons[2][2]
    assert "which is not a text" in reasons[3][2]
    assert "write it to a file" in reasons[5][2]

    table = "audio,text\na.wav,one\nb.wav," + "x" * 2_000_000 + '\na.wav,two\nb.wav,"last,\none"\n'
    source = open_at(written(tmp_path, "a.csv", table))
    assert list(source.texts) == ["one", "two", "last one"]
    assert skips(source) == {"line 3": "bad_row: the line is longer than 1,000,000 characters"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"audio": "a.wav", "text": 1' + "0" * 5000 + "}", "is not JSON"),
        ('[{"audio": "a.wav"},\n 7]', r"item 2 is not a JSON object \(7\)"),
        ('[{"audio": "a.wav"},\n', "line 2 is not JSON"),
        ("[" * 100_000, "nested too deep"),
        ('{"utts": {}}', r"lists features, not recordings \(ESPnet's data.json\)"),
        ('{"audio": ["a"], "text": []}', "columns of different lengths"),
        ("7", "holds no rows"),
    ],
)
def test_broken_documents_are_one_line(content: str, message: str, tmp_path: Path) -> None:
    refused(written(tmp_path, "a.json", content), message)


def test_a_compressed_manifest_that_is_damaged_is_one_line(tmp_path: Path) -> None:
    good = gzip.compress(json.dumps({"audio": "a.wav", "text": "one"}).encode() * 100)
    for content in (good[: len(good) // 2], good[:30] + b"\xff" * 20 + good[50:], b"plain"):
        refused(written(tmp_path, "a.jsonl.gz", content), "cannot be read|is not JSON|not UTF-8")


def test_skips_of_any_name_are_written_down(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = SkipLog(tmp_path / "skipped.jsonl", [], 0.5)
    log.note([Skip("x", "half\ud800", "missing", "there is no half\ud800")])
    [line] = (tmp_path / "skipped.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["name"] == "half\ud800"
    assert "Skipped half\\ud800 of x (missing)" in caplog.text, "and said as a terminal can show it"


def test_a_missing_recording_is_named_as_it_is_written(tmp_path: Path) -> None:
    source = open_at(write_manifest(tmp_path / "a.jsonl", [{"audio": r"x\y.wav", "text": "a", "duration": 1.0}]))
    with pytest.raises(AudioError, match="there is no file"):
        source.read(0)
