"""Contexts: read from every kind of corpus, cleaned, cut, and left out by draw, whoever reads it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clips import tone, write, write_manifest
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data.contexts import ContextReader, cut
from tiny_audio.data.features import clip_keys
from tiny_audio.data.loader import ClipDataset, train_loader
from tiny_audio.data.plan import Draw, SamplingPlan
from tiny_audio.data.sources import Source, open_source
from tiny_audio.errors import ConfigError, UserError
from tiny_audio.evaluation.evaluation_set import evaluation_fingerprint

ROWS = [
    {"text": "one two", "context": "Dr. Okonkwo, <|im_end|> Quilter"},
    {"text": "three", "context": ["GPU", "PostgreSQL 17"]},
    {"text": "four", "context": None},
    {"text": "five", "context": ""},
    {"text": "six"},
]
READ = ["dr. okonkwo, quilter", "gpu, postgresql 17", "", "", ""]


def rows_in(folder: Path, rows: list[dict] = ROWS) -> list[dict]:
    """Rows with a recording each."""
    return [{"audio": str(write(folder / f"{i}.wav", 0.3 + i / 10)), **row} for i, row in enumerate(rows)]


def opened(path: Path, cache: Path, data: DataConfig | None = None, **entry: object) -> Source:
    return open_source(DatasetConfig(path=str(path), **entry), data or DataConfig(), cache)


def test_contexts_are_read_in_the_form_of_transcripts(tmp_path):
    source = opened(write_manifest(tmp_path / "a.jsonl", rows_in(tmp_path)), tmp_path)
    assert list(source.contexts) == READ
    assert source.num_contexts == 2
    assert list(source.subset(np.array([1, 2])).contexts) == READ[1:3]
    again = opened(tmp_path / "a.jsonl", tmp_path)  # the index is read from the cache now
    assert list(again.contexts) == READ
    kept = opened(tmp_path / "a.jsonl", tmp_path, DataConfig(text_case="keep"))
    assert kept.contexts[1] == "GPU, PostgreSQL 17"


def test_a_row_that_is_left_out_takes_its_context_along(tmp_path):
    rows = rows_in(tmp_path)
    rows[0]["text"] = ""
    source = opened(write_manifest(tmp_path / "a.jsonl", rows), tmp_path)
    assert list(source.texts) == ["three", "four", "five", "six"]
    assert list(source.contexts) == READ[1:]


def as_csv(folder: Path, rows: list[dict]) -> Path:
    path = folder / "a.csv"
    lines = [f'{row["audio"]};{row["text"]};"{row["known"]}"' for row in rows]
    path.write_text("\n".join(["audio;text;known", *lines]))
    return path


def as_json(folder: Path, rows: list[dict]) -> Path:
    path = folder / "a.json"
    path.write_text(json.dumps(rows))
    return path


def as_parquet(folder: Path, rows: list[dict]) -> Path:
    import datasets

    path = folder / "a.parquet"
    table = datasets.Dataset.from_list(rows).cast_column("audio", datasets.Audio(decode=False))
    table.to_parquet(path)
    return path


def as_paths(folder: Path, rows: list[dict]) -> Path:
    import datasets

    datasets.Dataset.from_list(rows).to_parquet(folder / "paths.parquet")
    return folder / "paths.parquet"


def as_samples(folder: Path, rows: list[dict]) -> Path:
    import datasets

    made = [{**row, "audio": {"array": tone(0.5).tolist(), "sampling_rate": 16_000}} for row in rows]
    datasets.Dataset.from_list(made).to_parquet(folder / "samples.parquet")
    return folder / "samples.parquet"


def as_saved(folder: Path, rows: list[dict]) -> Path:
    import datasets

    datasets.Dataset.from_list(rows).save_to_disk(folder / "saved")
    return folder / "saved"


@pytest.mark.parametrize("kind", [as_csv, as_json, as_parquet, as_paths, as_samples, as_saved])
def test_every_kind_of_corpus_may_have_a_column_of_them(kind, tmp_path):
    rows = rows_in(tmp_path, [{"text": "one", "known": "Quilter"}, {"text": "two", "known": ""}])
    path = kind(tmp_path, rows)
    assert opened(path, tmp_path).contexts is None, "by another name it is asked for"
    assert list(opened(path, tmp_path, context_column="known").contexts) == ["quilter", ""]
    with pytest.raises(UserError, match="has no column names; it has audio, known, text: set context_column"):
        opened(path, tmp_path, context_column="names")


def test_cuts_of_lhotse_have_contexts_as_custom_fields(tmp_path):
    lhotse = pytest.importorskip("lhotse")
    recording = lhotse.Recording.from_file(write(tmp_path / "a.wav", 2.0))
    cuts = []
    for i, where in enumerate(("cut", "supervision", "nowhere")):
        said = lhotse.SupervisionSegment(f"s{i}", recording.id, 0.0, 0.5, text="one")
        said.custom = {"context": ["Quilter", "Okonkwo"]} if where == "supervision" else None
        one = lhotse.MonoCut(f"c{i}", 0.5 * i, 0.5, 0, supervisions=[said], recording=recording)
        one.custom = {"context": "Quilter"} if where == "cut" else None
        cuts.append(one)
    lhotse.CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl")
    assert list(opened(tmp_path / "cuts.jsonl", tmp_path).contexts) == ["quilter", "quilter, okonkwo", ""]
    assert opened(tmp_path / "cuts.jsonl", tmp_path, context_column="").contexts is None


@pytest.mark.parametrize("value", [7, 0.5, True, {"a": "b"}, ["one", 2]])
def test_a_column_that_holds_no_texts_is_refused_in_a_line(value, tmp_path):
    path = write_manifest(tmp_path / "a.jsonl", rows_in(tmp_path, [ROWS[0], {"text": "two", "context": value}]))
    with pytest.raises(UserError, match=r"a.jsonl line 2: the context is .* must be text or a list of texts") as error:
        opened(path, tmp_path)
    assert "\n" not in str(error.value)
    assert opened(path, tmp_path, context_column="").contexts is None


def test_long_contexts_are_cut_between_words_and_counted(tmp_path, caplog):
    rows = rows_in(tmp_path, [{"text": "one", "context": "alpha, beta, gamma"}, {"text": "two", "context": "delta"}])
    source = opened(write_manifest(tmp_path / "a.jsonl", rows), tmp_path, DataConfig(max_context_length=13))
    assert list(source.contexts) == ["alpha, beta", "delta"]
    assert "1 contexts are longer than data.max_context_length=13 characters, and are cut." in caplog.text
    assert cut("abcdef", 3) == "abc"
    assert cut("ab cd", 5) == "ab cd"
    assert cut("ab cd", 2) == "ab"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"context_dropout": 1.5}, "data.context_dropout must be between 0 and 1, got 1.5."),
        ({"max_context_length": 0}, "data.max_context_length must be at least 1, got 0."),
    ],
)
def test_settings_have_bounds(values, message):
    with pytest.raises(ConfigError) as error:
        DataConfig(**values)
    assert str(error.value) == message


@pytest.fixture
def source(tmp_path) -> Source:
    rows = [{"text": f"clip {i}", "context": f"known of {i}"} for i in range(40)]
    for row in rows[::4]:
        del row["context"]
    return opened(write_manifest(tmp_path / "a.jsonl", rows_in(tmp_path, rows)), tmp_path)


def letters(text: str) -> list[int]:
    return list(text.encode())


def test_what_is_left_out_depends_on_seed_and_draw_alone(source):
    def of(dropout: float, seed: int = 7) -> ClipDataset:
        return ClipDataset([source], letters, DataConfig(), contexts=ContextReader(letters, dropout, seed))

    plan = SamplingPlan([source.durations], [1.0], 8, seed=3)
    dataset = of(0.5)
    whole = [dataset.__getitems__(plan.batch(number)) for number in range(10)]
    for workers in (0, 2):  # also those of a run that goes on, and of processes that share a step
        resumed = list(train_loader(plan, dataset, start_batch=3, stop_batch=10, num_workers=workers))
        halves = [list(train_loader(plan, dataset, process_index=i, num_processes=2, stop_batch=10)) for i in (0, 1)]
        for number in range(10):
            known = [halves[number % 2][number // 2], *([resumed[number - 3]] if number >= 3 else [])]
            for batch in known:
                assert all(map(torch.equal, batch.context_ids, whole[number].context_ids))
                assert len(batch.context_ids) == len(batch)
    for batch in whole:
        for draw, ids in zip(batch.draws, batch.context_ids, strict=True):
            row = next(one.row for number in range(10) for one in plan.batch(number) if one.number == draw)
            assert bytes(ids.tolist()).decode() in ("", source.contexts[row])
    draws = [Draw(number, 0, 1) for number in range(2000)]
    for dropout in (0.0, 0.2, 1.0):
        left_out = sum(not of(dropout).read_context(draw) for draw in draws)
        assert abs(left_out / 2000 - dropout) < 0.03
    assert [bool(of(0.5, 8).read_context(draw)) for draw in draws] != [
        bool(of(0.5).read_context(draw)) for draw in draws
    ], "another seed leaves out others"


def test_features_in_the_cache_are_the_same_with_contexts(source, tmp_path):
    plain = opened(tmp_path / "a.jsonl", tmp_path, context_column="")
    rows = list(range(len(source)))
    keys, expected = (clip_keys(one.recording_versions(rows)) for one in (source, plain))
    assert keys == expected


def test_another_context_is_another_evaluation(source, tmp_path):
    plain = opened(tmp_path / "a.jsonl", tmp_path, context_column="")
    (tmp_path / "b.jsonl").write_text((tmp_path / "a.jsonl").read_text().replace("known of 1", "nothing of 1"))
    other = opened(tmp_path / "b.jsonl", tmp_path)
    assert len({evaluation_fingerprint([one]) for one in (source, plain, other)}) == 3
