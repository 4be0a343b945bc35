"""Parts of corpora on the Hub: the same clips whatever is on this disk, in few requests, with patience."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
from huggingface_hub import hf_hub_download

from clips import tone
from hub_stub import HubStub, at_hub, serving
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data import hub_requests
from tiny_audio.data.contexts import ContextReader
from tiny_audio.data.entries import find_on_hub
from tiny_audio.data.hub import download
from tiny_audio.data.hub_requests import DEFAULT_PAUSE, Pause, pause_seconds
from tiny_audio.data.loader import Batch, ClipDataset, train_loader
from tiny_audio.data.no_speech import no_speech_source
from tiny_audio.data.plan import POOL_BLOCKS, WINDOW_BATCHES, Draw, SamplingPlan
from tiny_audio.data.sources import Source, open_sources
from tiny_audio.data.subsets import seeded_order
from tiny_audio.errors import UserError

FILES, GROUPS, ROWS = 6, 5, 10  # a corpus of 300 clips
ENTRY = DatasetConfig(path="me/long")


def write_corpus(root: Path) -> None:
    """A corpus whose neighbors in a file are of one speaker, with columns on both sides of the audio."""
    features = datasets.Features({
        "id": datasets.Value("string"), "audio": datasets.Audio(16_000), "text": datasets.Value("string"),
        "speaker_id": datasets.Value("string"), "chapter": datasets.Value("int64"),
        "context": datasets.Value("string"),
    })  # fmt: skip
    wav = io.BytesIO()
    soundfile.write(wav, tone(0.5) * np.random.default_rng(0).uniform(0.5, 1, 8000), 16_000, format="WAV")
    recording = {"bytes": wav.getvalue(), "path": None}
    for file in range(FILES):
        table = [
            {"id": f"{file}-{row}", "audio": recording, "text": f"{'word ' * (row % 7)}end", "chapter": row,
             "speaker_id": f"{file}.{row // ROWS}", "context": f"Row {row}" if row % 3 else None}
            for row in range(GROUPS * ROWS)
        ]  # fmt: skip
        path = root / f"me/long/data/train-0000{file}-of-0000{FILES}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        made = pyarrow.Table.from_pylist(table, features.arrow_schema)
        pyarrow.parquet.write_table(made, path, row_group_size=ROWS)


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubStub]:
    root = tmp_path_factory.mktemp("hub")
    write_corpus(root)
    with serving(root) as server:
        yield server


def opened(
    cache: Path, streaming: bool = False, limit: int | None = None, disk_gb: float = 1.0
) -> tuple[DataConfig, Source]:
    data = DataConfig(streaming=streaming, streaming_disk_gb=disk_gb)
    [source] = open_sources([ENTRY], data, cache, limit=limit, seed=0, as_drawn=True)
    return data, source


def batches(
    data: DataConfig, source: Source, start: int = 0, stop: int | None = 8, workers: int = 0, size: int = 4
) -> Iterator[Batch]:
    plan = SamplingPlan([source.durations], [1.0], size, 3, blocks=[source.blocks])
    dataset = ClipDataset([source], lambda text: [1], data)
    return iter(train_loader(plan, dataset, start_batch=start, stop_batch=stop, num_workers=workers))


Subset = tuple[list[str], list[str], list[str]]


def subset(cache: Path, streaming: bool = False) -> Subset:
    _, source = opened(cache, streaming, limit=50)
    return list(source.names), list(source.texts), list(source.speakers or ())


def test_a_subset_is_the_same_whether_cached_or_not_and_streamed_or_not(hub: HubStub, tmp_path: Path) -> None:
    def nothing(cache: Path) -> None: ...

    def whole(cache: Path) -> None:
        download(find_on_hub(ENTRY, cache)[0])

    def one_file(cache: Path) -> None:
        hf_hub_download("me/long", "data/train-00003-of-00006.parquet", repo_type="dataset")

    found: dict[str, Subset] = {}
    for name, before, streaming in (
        ("nothing", nothing, False), ("streamed", nothing, True), ("whole", whole, False), ("a file", one_file, False),
    ):  # fmt: skip
        with at_hub(hub.endpoint, tmp_path / name) as cache:
            before(cache)
            found[name] = subset(cache, streaming)
    names, _, speakers = found["nothing"]
    assert len(names) == 50
    assert all(other == found["nothing"] for other in found.values())
    assert len(set(speakers)) >= 5, "50 clips of 10 a speaker are of more than five speakers"
    assert len({name.partition("-")[0] for name in names}) == FILES, "from all files"
    with at_hub(hub.endpoint, tmp_path / "nothing") as cache:
        assert len(list(cache.rglob("rows/**/*.parquet"))) == 7, "50 / 8, though five would hold as many"
        whole(cache)
        assert subset(cache) == found["nothing"], "and when the rest was downloaded since"


def test_contexts_come_with_a_row_group_as_its_transcripts_do(hub: HubStub, tmp_path: Path) -> None:
    with at_hub(hub.endpoint, tmp_path) as cache:
        data, streamed = opened(cache, streaming=True)
        assert streamed.num_contexts is None, "not known before it is drawn"
        contexts = ContextReader(lambda text: list(text.encode()))
        batch = ClipDataset([streamed], lambda text: [1], data, contexts=contexts).__getitems__(
            [Draw(0, 0, row) for row in (61, 63, 100)]
        )
        assert [bytes(ids.tolist()).decode() for ids in batch.context_ids] == ["row 11", "row 13", ""]
        assert all(text.startswith("row ") for text in streamed.longest_contexts(2))
        _, read = opened(cache, streaming=True, limit=50)
        rows = [name.partition("-")[2] for name in read.names]
        assert list(read.contexts) == [f"row {row}" if int(row) % 3 else "" for row in rows]
        [none] = open_sources([replace(ENTRY, context_column="")], data, cache, limit=None, seed=0, as_drawn=True)
        assert none.contexts is None


def test_seeded_order_is_a_permutation_that_others_do_not_change() -> None:
    names = [f"clip{number}" for number in range(1000)] + ["twice", "twice"]
    order = seeded_order(names, 3)
    assert sorted(order.tolist()) == list(range(1002))
    assert order.tolist() != seeded_order(names, 4).tolist()
    fewer = [names[i] for i in seeded_order(names[:500], 3)]
    assert [name for name in (names[i] for i in order) if name in set(fewer)] == fewer
    assert abs(order[:500].mean() - 500) < 50, "spread over all of them"


def test_a_stream_starts_with_a_request_a_file(hub: HubStub, tmp_path: Path) -> None:
    """And reads of the clips no more than what is drawn: not what is written about them, nor their audio."""
    with at_hub(hub.endpoint, tmp_path) as cache:
        assert len(opened(cache, streaming=True)[1]) == FILES * GROUPS * ROWS
    asked = [request for request in hub.requests if ".parquet" in request]
    assert len([request for request in asked if request.startswith("GET /datasets")]) == FILES
    assert len([request for request in asked if request.startswith("GET /storage")]) == FILES
    hub.requests.clear()
    with at_hub(hub.endpoint, tmp_path) as cache:
        opened(cache, streaming=True)
    assert not hub.requests, "footers are kept"


def test_what_is_drawn_of_a_stream_is_a_request_or_two_a_row_group(hub: HubStub, tmp_path: Path) -> None:
    with at_hub(hub.endpoint, tmp_path) as cache:
        for _ in batches(*opened(cache, streaming=True), stop=3, size=2):
            pass
    kept, recordings = len(list(tmp_path.rglob("*.text"))), len(list(tmp_path.rglob("streams/**/*.arrow")))
    assert kept <= POOL_BLOCKS, "of the pool of row groups from which the first window draws"
    reads = len([request for request in hub.requests if request.startswith("GET /storage")]) - FILES
    # What is written lies on both sides of the audio, which here is small enough to come along.
    assert recordings + kept <= reads <= recordings + 2 * kept
    resolved = [request for request in hub.requests if request.startswith("GET /datasets")]
    assert len(resolved) <= 3 * FILES, "where a file is stored is asked for once a thread at most, not for each range"


def test_row_groups_are_fetched_before_they_are_drawn(hub: HubStub, tmp_path: Path) -> None:
    with at_hub(hub.endpoint, tmp_path) as cache:
        drawn = batches(*opened(cache, streaming=True), stop=None)
        next(drawn)
        deadline = time.monotonic() + 60
        while len(list(cache.rglob("*.arrow"))) < 16 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(list(cache.rglob("*.arrow"))) >= 16, "all that the first window draws, after a batch of four clips"
        del drawn  # else it reads on


def test_a_stream_is_drawn_in_one_order_from_wherever_it_goes_on(hub: HubStub, tmp_path: Path) -> None:
    def drawn(name: str, start: int = 0, workers: int = 0, disk_gb: float = 1.0) -> list[tuple[list[str], list[str]]]:
        with at_hub(hub.endpoint, tmp_path / name) as cache:
            loader = batches(*opened(cache, streaming=True, disk_gb=disk_gb), start=start, workers=workers)
            return [(batch.names, batch.transcripts) for batch in loader]

    first = drawn("a")
    assert drawn("b", workers=2, disk_gb=1e-6) == first
    assert drawn("c", start=5, workers=1) == first[5:]
    names = [name for names, _ in first for name in names]
    assert len(set(names)) == 32, "of one shuffle"
    assert len({name.partition("-")[0] for name in names}) > 3, "of files all over"


def test_a_rate_limit_is_waited_for_as_long_as_it_says(
    hub: HubStub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No request is made while it lasts: of twenty threads each would otherwise ask again, and be refused."""
    hub.limit, hub.window = 4, 1.5
    with at_hub(hub.endpoint, tmp_path) as cache:
        assert len(opened(cache, streaming=True)[1]) == FILES * GROUPS * ROWS
    assert 0 < hub.refused <= FILES, "those in flight when the first was refused"
    assert "Too many requests to the Hub: it asks for a pause of" in caplog.text


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"RateLimit": '"resolvers";r=0;t=55'}, 55.0),
        ({"Retry-After": "soon"}, DEFAULT_PAUSE),
        ({}, DEFAULT_PAUSE),
    ],
)
def test_how_long_a_refusal_wants_to_be_waited_for(headers: dict[str, str], seconds: float) -> None:
    assert pause_seconds(headers) == seconds


def test_a_refusal_may_say_until_when_it_wants_to_be_waited_for() -> None:
    for seconds, due in ((3600, 3600.0), (-3600, 0.0)):
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
        assert pause_seconds({"Retry-After": date}) == pytest.approx(due, abs=30)


def test_all_threads_share_one_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(hub_requests.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(hub_requests.time, "sleep", sleep)
    pause = Pause()
    pause.wait()
    assert not slept
    pause.extend(5)
    pause.extend(3)  # of a request that was in flight
    other = threading.Thread(target=pause.wait)
    other.start()
    other.join()
    assert slept == [5]


def test_an_address_of_the_storage_that_ran_out_is_asked_for_anew(hub: HubStub, tmp_path: Path) -> None:
    """They are signed for an hour; a run lasts for days."""
    with at_hub(hub.endpoint, tmp_path) as cache:
        data, source = opened(cache, streaming=True, disk_gb=1e-6)  # nothing is read ahead
        first = [batch.names for batch in batches(data, source, stop=1)]
        hub.valid_from = hub.given + 1
        rest = [batch.names for batch in batches(data, source, start=1)]
    assert len(first + rest) == 8
    assert "expired" in hub.requests


def test_rows_without_a_transcript_are_left_out_when_they_are_drawn(hub: HubStub, tmp_path: Path) -> None:
    path = hub.root / "me/long/data/train-00000-of-00006.parquet"
    table = pyarrow.parquet.read_table(path)
    table = table.set_column(2, "text", pyarrow.array(["..."] * len(table)))
    pyarrow.parquet.write_table(table, path, row_group_size=ROWS)
    with at_hub(hub.endpoint, tmp_path) as cache:
        found = list(batches(*opened(cache, streaming=True), stop=2 * WINDOW_BATCHES))  # more than a pass
    skipped = {(skip.name, skip.reason) for batch in found for skip in batch.skipped}
    names = {name for batch in found for name in batch.names}
    assert skipped == {(f"0-{row}", "empty_text") for row in range(GROUPS * ROWS)}
    assert names == {f"{file}-{row}" for file in range(1, FILES) for row in range(GROUPS * ROWS)}


def test_clips_without_speech_beside_a_stream_fetch_one_row_group_for_its_lengths(hub: HubStub, tmp_path: Path) -> None:
    with at_hub(hub.endpoint, tmp_path) as cache:
        data, source = opened(cache, streaming=True)
        bank = no_speech_source([source], replace(data, no_speech_share=0.1), 0)
    assert len(bank)
    assert len(list(tmp_path.rglob("*.text"))) == 1
    assert not list(tmp_path.rglob("streams/**/*.arrow"))


def test_samples_are_not_streamed(tmp_path: Path) -> None:
    file = tmp_path / "hub/me/long/data/train.parquet"
    file.parent.mkdir(parents=True)
    rows = [{"audio": tone(0.5).tolist(), "sampling_rate": 16_000, "text": "one"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    with serving(tmp_path / "hub") as hub, at_hub(hub.endpoint, tmp_path / "here") as cache:
        with pytest.raises(UserError, match="holds no encoded recordings in its column audio") as caught:
            opened(cache, streaming=True)
        assert "set data.streaming=false" in str(caught.value)
        assert len(opened(cache)[1].read(0)) == 8_000
