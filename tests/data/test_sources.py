"""Every way of giving a corpus, and every way in which a row can be unusable."""

from __future__ import annotations

import csv
import json
import logging
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from clips import write, write_manifest
from tiny_audio.audio import AudioError
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data.sources import Source, open_source, open_sources
from tiny_audio.data.strings import Strings
from tiny_audio.errors import UserError
from tiny_audio.evaluation.evaluation_set import evaluation_fingerprint

DATA = DataConfig()
SECONDS = (1.0, 1.5, 0.5)
TEXTS = ("One, two.", "THREE", "don't")
CLEANED = ["one two", "three", "don't"]


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for number, seconds in enumerate(SECONDS):
        write(tmp_path / "corpus" / "audio" / f"{number}.flac", seconds)
    return tmp_path / "corpus"


def rows(folder: str = "audio/", **extra: Any) -> list[dict[str, Any]]:
    return [{"audio": f"{folder}{i}.flac", "text": text, **extra} for i, text in enumerate(TEXTS)]


def open_at(path: Path, tmp_path: Path, data: DataConfig = DATA, **settings: Any) -> Source:
    return open_source(DatasetConfig(path=str(path), **settings), data, tmp_path / "cache")


def check(source: Source) -> None:
    """The three clips, whatever they came from."""
    assert list(source.texts) == CLEANED
    np.testing.assert_allclose(source.durations, SECONDS, atol=0.01)
    assert source.durations.dtype == np.float32
    assert [len(source.read(row)) for row in range(3)] == [16_000, 24_000, 8_000]
    assert source.skipped == []


def write_csv(path: Path, table: list[dict[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, table[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(table)
    return path


def write_parquet(path: Path, table: list[dict[str, Any]], folder: Path) -> Path:
    """As `Dataset.push_to_hub` writes audio: a struct of bytes and path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = [
        {**row, "audio": {"bytes": (folder / row["audio"]).read_bytes(), "path": Path(row["audio"]).name}}
        for row in table
    ]
    datasets.Dataset.from_list(table).to_parquet(path)
    return path


def test_manifest_jsonl_with_and_without_durations(clips: Path, tmp_path: Path) -> None:
    check(open_at(write_manifest(clips / "a.jsonl", rows()), tmp_path))
    listed = [{**row, "duration": seconds} for row, seconds in zip(rows(), SECONDS, strict=True)]
    check(open_at(write_manifest(clips / "b.jsonl", listed), tmp_path))


def test_manifest_csv_and_tsv(clips: Path, tmp_path: Path) -> None:
    check(open_at(write_csv(clips / "a.csv", rows()), tmp_path))
    check(open_at(write_csv(clips / "a.tsv", rows(), "\t"), tmp_path))


def test_columns_of_other_names(clips: Path, tmp_path: Path) -> None:
    table = [{"rec": row["audio"], "label": row["text"]} for row in rows()]
    manifest = write_manifest(clips / "a.jsonl", table)
    check(open_at(manifest, tmp_path, audio_column="rec", text_column="label"))
    with pytest.raises(UserError, match=r"has no column any of audio, .*it has label, rec: set audio_column"):
        open_at(manifest, tmp_path)
    with pytest.raises(UserError, match="has no column words; it has label, rec: set text_column"):
        open_at(manifest, tmp_path, audio_column="rec", text_column="words")


def test_folder_in_the_style_of_hugging_face(clips: Path, tmp_path: Path) -> None:
    table = [{"file_name": row["audio"], "transcription": row["text"]} for row in rows()]
    write_csv(clips / "metadata.csv", table)
    check(open_at(clips, tmp_path))
    split = tmp_path / "splits"
    for i, seconds in enumerate(SECONDS):
        write(split / "train" / f"{i}.flac", seconds)
    train = [{"file_name": f"{i}.flac", "text": text} for i, text in enumerate(TEXTS)]
    write_manifest(split / "train" / "metadata.jsonl", train)
    check(open_at(split, tmp_path, split="train"))


def test_folder_with_a_manifest_a_split(clips: Path, tmp_path: Path) -> None:
    write_manifest(clips / "train.jsonl", rows())
    write_manifest(clips / "dev.jsonl", rows()[:1])
    check(open_at(clips, tmp_path, split="train"))
    assert len(open_at(clips, tmp_path, split="dev")) == 1


def test_folder_in_the_style_of_a_common_voice_archive(tmp_path: Path) -> None:
    for i, seconds in enumerate(SECONDS):
        write(tmp_path / "cv" / "clips" / f"{i}.mp3", seconds, format="MP3")
    table = [{"path": f"{i}.mp3", "sentence": text, "client_id": "x"} for i, text in enumerate(TEXTS)]
    write_csv(tmp_path / "cv" / "train.tsv", table, "\t")
    check(open_at(tmp_path / "cv", tmp_path, name="common_voice", language="ko", split="train"))


def test_split_column(clips: Path, tmp_path: Path) -> None:
    table = [*rows(split="dev"), {"audio": "other.flac", "text": "x", "split": "test"}]
    manifest = write_manifest(clips / "manifest.jsonl", table)
    check(open_at(manifest, tmp_path, split="dev"))
    check(open_at(clips, tmp_path, split="dev"))
    with pytest.raises(UserError, match=r"no rows of the split train; it has dev \(3\), test \(1\)"):
        open_at(manifest, tmp_path, split="train")
    with pytest.raises(UserError, match="has no column split"):
        open_at(write_manifest(clips / "plain.jsonl", rows()), tmp_path, split="dev")


def test_parquet(clips: Path, tmp_path: Path) -> None:
    check(open_at(write_parquet(tmp_path / "one.parquet", rows(), clips), tmp_path))
    hub = tmp_path / "hub"
    write_parquet(hub / "clean" / "train.360" / "0000.parquet", rows()[:2], clips)
    write_parquet(hub / "clean" / "train.360" / "0001.parquet", rows()[2:], clips)
    write_parquet(hub / "clean" / "validation-00000-of-00001.parquet", rows()[:1], clips)
    source = open_at(hub, tmp_path, split="train.360")
    check(source)
    assert list(source.names) == ["0.flac", "1.flac", "2.flac"]
    assert len(open_at(hub, tmp_path, split="dev")) == 1  # another spelling of validation
    with pytest.raises(UserError, match=r"parquet files or .* of the split test"):
        open_at(hub, tmp_path, split="test")
    (tmp_path / "bad.parquet").write_text("no parquet")
    with pytest.raises(UserError, match="cannot be read as parquet"):
        open_at(tmp_path / "bad.parquet", tmp_path)


def test_text_form(clips: Path, tmp_path: Path) -> None:
    manifest = write_manifest(clips / "a.jsonl", rows())
    data = DataConfig(text_case="keep", keep_punctuation=True)
    assert list(open_at(manifest, tmp_path, data).texts) == list(TEXTS)
    tagged = [
        {"audio": "audio/0.flac", "text": "HELLO <COMMA> YOU"},
        {"audio": "audio/1.flac", "text": "<MUSIC>"},
    ]
    source = open_at(write_manifest(clips / "g.jsonl", tagged), tmp_path, data, name="gigaspeech")
    assert list(source.texts) == ["hello, you"]
    assert [(skip.source, skip.reason) for skip in source.skipped] == [("gigaspeech", "empty_text")]


def test_listed_durations_are_believed_without_touching_the_files(tmp_path: Path) -> None:
    table = [{"audio": f"{i}.wav", "text": "a", "duration": d} for i, d in enumerate((1, 0.05, 31, 30))]
    source = open_at(write_manifest(tmp_path / "a.jsonl", table), tmp_path)
    assert list(source.names) == ["0.wav", "3.wav"]
    assert {skip.name: skip.reason for skip in source.skipped} == {"1.wav": "too_short", "2.wav": "too_long"}
    with pytest.raises(AudioError, match="there is no file") as caught:
        source.read(0)
    assert caught.value.reason == "missing"


def test_durations_are_cached_but_failures_are_not(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_manifest(clips / "a.jsonl", [*rows(), {"audio": "late.wav", "text": "late"}])
    with pytest.raises(
        UserError, match=r"1 of the 4 recordings of .* cannot be opened, more than .*; late.wav: there is"
    ):
        open_at(manifest, tmp_path)
    lenient = DataConfig(max_skipped_share=0.5)
    first = open_at(manifest, tmp_path, lenient)
    assert [(skip.name, skip.reason) for skip in first.skipped] == [("late.wav", "missing")]
    write(clips / "late.wav", 1.0)
    read = []
    from tiny_audio.data import index

    genuine = index.header_seconds
    monkeypatch.setattr(index, "header_seconds", lambda file: read.append(file) or genuine(file))
    assert len(open_at(manifest, tmp_path)) == 4
    assert read == [clips / "late.wav"]
    write_manifest(manifest, rows())
    check(open_at(manifest, tmp_path))
    assert len(read) == 4  # a manifest that changed is indexed anew


def test_twenty_thousand_rows_open_within_a_second(tmp_path: Path) -> None:
    table = [{"audio": f"a/{i}.flac", "text": "It's some WORDS, spoken.", "duration": 9.5} for i in range(20_000)]
    manifest = write_manifest(tmp_path / "a.jsonl", table)
    began = time.perf_counter()
    assert len(open_at(manifest, tmp_path)) == 20_000
    assert time.perf_counter() - began < 30


def test_progress_of_long_indexing_is_told(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tiny_audio.data import index

    monkeypatch.setattr(index, "PROGRESS_SECONDS", -1.0)
    with caplog.at_level(logging.INFO):
        open_at(write_manifest(clips / "a.jsonl", rows()), tmp_path)
    assert "3 of 3 clips" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"audio": "a"}\n{"audio": \n', "line 2 is not JSON"),
        ("[1]\n", "item 1 is not a JSON object"),
        ("", "has no rows"),
        ('{"audio": "a", "text": ""}\n', r"has no usable clip \(1 empty_text\)"),
    ],
)
def test_broken_manifests_are_one_line(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        open_at(tmp_path / "a.jsonl", tmp_path)
    assert "\n" not in str(caught.value)


def test_not_text_and_not_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"audio,text\n\xff\xfe,x\n")
    with pytest.raises(UserError, match="is not text in UTF-8"):
        open_at(tmp_path / "a.csv", tmp_path)
    (tmp_path / "a.doc").write_text("x")
    with pytest.raises(UserError, match="is not a manifest"):
        open_at(tmp_path / "a.doc", tmp_path)


def test_a_path_that_does_not_exist_brings_the_nearest(clips: Path, tmp_path: Path) -> None:
    write_manifest(clips / "train.jsonl", rows())
    with pytest.raises(UserError, match=r"there is no .*trian.jsonl; did you mean .*corpus/train.jsonl\?"):
        open_at(clips / "trian.jsonl", tmp_path)
    with pytest.raises(UserError, match=r"did you mean .*/corpus\?"):
        open_at(tmp_path / "corpsu" / "train.jsonl", tmp_path)
    with pytest.raises(UserError, match="has no zzz"):
        open_at(tmp_path / "zzz", tmp_path)
    with pytest.raises(UserError, match=r"holds no dev.jsonl, manifest.jsonl, metadata.csv, .* of the split dev"):
        open_at(clips / "audio", tmp_path, split="dev")


def test_names_that_are_not_known(tmp_path: Path) -> None:
    def refused(message: str, **settings: Any) -> None:
        with pytest.raises(UserError, match=message):
            open_source(DatasetConfig(**settings), DATA, tmp_path)

    refused("did you mean librispeech", name="librispeach")
    refused(r"no corpus mine among librispeech, .*, pocket; set its path", name="mine")
    refused("has no split train; it has train-clean-100", name="librispeech", split="train")
    refused(r"librispeech has no subset to choose \(subset=L\)", name="librispeech", subset="L")
    refused("tedlium has no release 2", name="tedlium", release=2)


def test_an_evaluation_set_is_known_by_its_clips_and_what_is_said_in_them(clips: Path, tmp_path: Path) -> None:
    first = open_at(write_manifest(clips / "a.jsonl", rows()), tmp_path)
    same = open_at(write_csv(clips / "b.csv", rows()), tmp_path, weight=3.0)
    assert evaluation_fingerprint([first]) == evaluation_fingerprint([same])
    changed = rows()
    changed[0]["text"] = "other"
    other = open_at(write_manifest(clips / "c.jsonl", changed), tmp_path)
    assert evaluation_fingerprint([other]) != evaluation_fingerprint([first])
    assert evaluation_fingerprint([first.subset(np.array([0, 1]))]) != evaluation_fingerprint([first])
    assert evaluation_fingerprint([first.subset(np.arange(len(first))[::-1])]) == evaluation_fingerprint([first])


def mixture(tmp_path: Path, *sizes: int) -> list[DatasetConfig]:
    entries = []
    for k, size in enumerate(sizes):
        table = [{"audio": f"{k}-{i}.wav", "text": f"word {i}", "duration": 1.0} for i in range(size)]
        path = write_manifest(tmp_path / f"{k}.jsonl", table)
        entries.append(DatasetConfig(path=str(path), weight=(0.5, 0.3, 0.2)[k]))
    return entries


@pytest.mark.parametrize(
    ("limit", "counts"),
    [(100, [50, 30, 20]), (10, [5, 3, 2]), (3, [1, 1, 1]), (400, [219, 131, 50]), (9999, [500, 300, 50])],
)
def test_a_subset_is_in_proportion_to_the_weights(limit: int, counts: list[int], tmp_path: Path) -> None:
    """Of 400, 80 would be the last one's, which has 50: the others share what it cannot give."""
    entries = mixture(tmp_path, 500, 300, 50)
    sources = open_sources(entries, DATA, tmp_path, limit=limit, seed=1)
    assert [len(source) for source in sources] == counts
    again = open_sources(entries, DATA, tmp_path, limit=limit, seed=1)
    assert evaluation_fingerprint(sources) == evaluation_fingerprint(again)
    if limit < 850:
        other = open_sources(entries, DATA, tmp_path, limit=limit, seed=2)
        assert evaluation_fingerprint(sources) != evaluation_fingerprint(other)


def test_a_subset_does_not_depend_on_what_else_is_in_the_mixture(tmp_path: Path) -> None:
    """Nor is it another one when it grows: a learning curve adds clips."""
    entries = mixture(tmp_path, 500, 300, 50)
    mixed = open_sources(entries, DATA, tmp_path, limit=100, seed=1)
    alone = open_sources(entries[1:2], DATA, tmp_path, limit=40, seed=1)[0]
    assert set(mixed[1].names) < set(alone.names)
    assert len(alone) == 40


@pytest.mark.parametrize("key", ["data.datasets", "data.train_path", "data.eval_datasets", "data.eval_path"])
def test_an_error_about_a_corpus_names_the_setting_that_was_typed(key: str, tmp_path: Path) -> None:
    entries = [DatasetConfig(path=str(tmp_path / "nothing.jsonl"))]
    name = "eval_datasets" if "eval" in key else "datasets"
    paths = {key.removeprefix("data."): entries[0].path} if key.endswith("path") else {}
    data = DataConfig(**{name: entries}, **paths)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"^{key}: there is no .*nothing.jsonl; "):
        open_sources(getattr(data, name), data, tmp_path, limit=None, seed=0)


def test_a_subset_too_small_for_all_drops_the_lightest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sources = open_sources(mixture(tmp_path, 50, 50, 50), DATA, tmp_path, limit=1, seed=0)
    assert [(source.name, len(source)) for source in sources] == [("0.jsonl", 1)]
    assert "2.jsonl: none of its clips" in caplog.text


def test_sources_and_their_skips_have_different_names(clips: Path, tmp_path: Path) -> None:
    table = [*rows(split="a"), {"audio": "", "text": "x", "split": "b"}, *rows(split="b")]
    path = str(write_manifest(clips / "all.jsonl", table))
    entries = [DatasetConfig(path=path, split=split) for split in ("a", "b", "b")]
    sources = open_sources(entries, DataConfig(max_skipped_share=0.5), tmp_path, limit=None, seed=0)
    assert [source.name for source in sources] == ["all.jsonl:a", "all.jsonl:b", "all.jsonl:b#2"]
    assert [(skip.source, skip.reason) for skip in sources[2].skipped] == [("all.jsonl:b#2", "missing")]
    with pytest.raises(UserError, match="is empty"):
        open_sources([], DATA, tmp_path, limit=None, seed=0)


def test_strings() -> None:
    strings = Strings(["a", "", "한국어", "d"])
    assert list(strings) == ["a", "", "한국어", "d"]
    assert strings[-1] == "d"
    assert strings[1:3] == ["", "한국어"]
    with pytest.raises(IndexError):
        strings[4]
    assert json.dumps(list(Strings([]))) == "[]"
