"""Parts of corpora on the Hub: the same clips whatever is on this disk, in few requests, with patience."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from clips import tone
from hub_stub import HubStub, run_there, serving
from tiny_audio.data import hub_requests
from tiny_audio.data.hub_requests import DEFAULT_PAUSE, Pause, pause_seconds
from tiny_audio.data.subsets import seeded_order

FILES, GROUPS, ROWS = 6, 5, 10  # a corpus of 300 clips
ENTRY = {"name": "custom", "path": "me/long"}


def write_corpus(root: Path) -> None:
    """A corpus whose neighbours in a file are of one speaker, with columns on both sides of the audio."""
    features = datasets.Features({
        "id": datasets.Value("string"), "audio": datasets.Audio(16_000), "text": datasets.Value("string"),
        "speaker_id": datasets.Value("string"), "chapter": datasets.Value("int64"),
    })  # fmt: skip
    wav = io.BytesIO()
    soundfile.write(wav, tone(0.5) * np.random.default_rng(0).uniform(0.5, 1, 8000), 16_000, format="WAV")
    recording = {"bytes": wav.getvalue(), "path": None}
    for file in range(FILES):
        table = [
            {"id": f"{file}-{row}", "audio": recording, "text": f"{'word ' * (row % 7)}end", "chapter": row,
             "speaker_id": f"{file}.{row // ROWS}"}
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


PREAMBLE = """
import json, sys, time
from pathlib import Path
import numpy as np
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data.entries import find_on_hub
from tiny_audio.data.hub import download
from tiny_audio.data.loader import ClipDataset, train_loader
from tiny_audio.data.plan import SamplingPlan
from tiny_audio.data.sources import open_sources

entry = DatasetConfig(name="custom", path="me/long")
cache = Path("cache")

def opened(streaming=False, limit=None, seed=0, disk_gb=1.0):
    data = DataConfig(streaming=streaming, streaming_disk_gb=disk_gb)
    return data, open_sources([entry], data, cache, limit=limit, seed=seed, as_drawn=True)

def batches(data, sources, start=0, stop=8, workers=0):
    plan = SamplingPlan([s.durations for s in sources], [1.0], 4, 3, blocks=[s.blocks for s in sources])
    dataset = ClipDataset(sources, lambda text: [1], data)
    return train_loader(plan, dataset, start_batch=start, stop_batch=stop, num_workers=workers)
"""


def there(hub: HubStub, folder: Path, script: str, **variables: str) -> Any:
    """What a script prints, as JSON, in a process of its own: the Hub's address is read at import."""
    folder.mkdir(exist_ok=True)
    run = run_there(hub.endpoint, folder, PREAMBLE + script, **variables)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


SUBSET = """
{before}
data, [source] = opened(streaming={streaming}, limit=50)
print(json.dumps([list(source.names), list(source.texts), list(source.speakers)]))
"""


def test_a_subset_is_the_same_whether_cached_or_not_and_streamed_or_not(hub: HubStub, tmp_path: Path) -> None:
    whole = "download(find_on_hub(entry, cache)[0])"
    get = "from huggingface_hub import hf_hub_download as get\nget('me/long', '{}', repo_type='dataset')"
    one_file = get.format("data/train-00003-of-00006.parquet")
    found = {
        name: there(hub, tmp_path / name, SUBSET.format(before=before, streaming=streaming))
        for name, before, streaming in (
            ("nothing", "", False), ("streamed", "", True), ("cached", whole, False), ("a file", one_file, False),
        )
    }  # fmt: skip
    names, _, speakers = found["nothing"]
    assert len(names) == 50
    assert all(other == found["nothing"] for other in found.values())
    assert len(set(speakers)) >= 5, "50 clips of 10 a speaker are of more than five speakers"
    assert len({name.partition("-")[0] for name in names}) == FILES, "from all files"
    # And when the rest was downloaded since:
    again = there(hub, tmp_path / "nothing", SUBSET.format(before=whole, streaming=False))
    assert again == found["nothing"]


def test_a_subset_fetches_a_few_row_groups_of_all(hub: HubStub, tmp_path: Path) -> None:
    there(hub, tmp_path, SUBSET.format(before="", streaming=False))
    assert len(list((tmp_path / "cache/rows").rglob("*.parquet"))) == 7  # 50 / 8, though five would hold as many


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
    assert there(hub, tmp_path, "print(len(opened(streaming=True)[1][0]))") == FILES * GROUPS * ROWS
    asked = [request for request in hub.requests if ".parquet" in request]
    assert len([request for request in asked if request.startswith("GET /datasets")]) == FILES
    assert len([request for request in asked if request.startswith("GET /storage")]) == FILES
    hub.requests.clear()
    there(hub, tmp_path, "print(len(opened(streaming=True)[1][0]))")
    assert not hub.requests, "footers are kept"


def test_what_is_drawn_of_a_stream_is_a_request_or_two_a_row_group(hub: HubStub, tmp_path: Path) -> None:
    drawn = """
data, sources = opened(streaming=True)
groups = set()
for batch in batches(data, sources, stop=3):
    groups |= {(name.split("-")[0], int(name.split("-")[1]) // 10) for name in batch.names}
print(len(groups))
"""
    count = there(hub, tmp_path, drawn)
    kept = len(list(tmp_path.rglob("*.text")))
    assert kept <= 16, "one pool of row groups is open"
    reads = len([request for request in hub.requests if request.startswith("GET /storage")]) - FILES
    # What is written lies on both sides of the audio, which here is small enough to come along.
    assert count + kept <= reads <= 2 * kept + len(list(tmp_path.rglob("*.arrow")))
    resolved = [request for request in hub.requests if request.startswith("GET /datasets")]
    assert len(resolved) <= 3 * FILES, "where a file is stored is asked for once a thread at most, not for each range"


def test_row_groups_are_fetched_before_they_are_drawn(hub: HubStub, tmp_path: Path) -> None:
    ahead = """
data, sources = opened(streaming=True)
drawn = iter(batches(data, sources, stop=None))
next(drawn)
deadline = time.monotonic() + 60
while len(list(cache.rglob("*.arrow"))) < 16 and time.monotonic() < deadline:
    time.sleep(0.01)
print(len(list(cache.rglob("*.arrow"))))
"""
    assert there(hub, tmp_path, ahead) >= 16, "all that the first window draws, after one batch of four clips"


STREAMED = """
data, sources = opened(streaming=True, disk_gb={disk_gb})
loader = batches(data, sources, start={start}, workers={workers})
print(json.dumps([[batch.names, batch.transcripts, len(batch.skipped)] for batch in loader]))
"""


def test_a_stream_is_drawn_in_one_order_from_wherever_it_goes_on(hub: HubStub, tmp_path: Path) -> None:
    first = there(hub, tmp_path / "a", STREAMED.format(start=0, workers=0, disk_gb=1))
    assert there(hub, tmp_path / "b", STREAMED.format(start=0, workers=2, disk_gb=1e-6)) == first
    assert there(hub, tmp_path / "c", STREAMED.format(start=5, workers=1, disk_gb=1)) == first[5:]
    texts = [text for _, transcripts, _ in first for text in transcripts]
    assert len(texts) == 32
    assert len(set(texts)) > 3


def test_a_rate_limit_is_waited_for_as_long_as_it_says(hub: HubStub, tmp_path: Path) -> None:
    """No request is made while it lasts: of twenty threads each would otherwise ask again, and be refused."""
    hub.limit, hub.window = 4, 1.5
    run = run_there(hub.endpoint, tmp_path, PREAMBLE + "print(len(opened(streaming=True)[1][0]))")
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == FILES * GROUPS * ROWS
    assert 0 < hub.refused <= FILES, "those in flight when the first was refused"
    assert "The Hub is asked too often; it wants a pause of" in run.stderr


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)}, 3600.0),
        ({"RateLimit": '"resolvers";r=0;t=55'}, 55.0),
        ({"Retry-After": "soon"}, DEFAULT_PAUSE),
        ({}, DEFAULT_PAUSE),
    ],
)
def test_how_long_a_refusal_wants_to_be_waited_for(headers: dict[str, str], seconds: float) -> None:
    assert pause_seconds(headers) == pytest.approx(seconds, abs=60 if seconds == 3600 else 1e-9)


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
    hub.given = 0
    script = f"""
import urllib.request
data, sources = opened(streaming=True)
first = [b.names for b in batches(data, sources, stop=1)]
urllib.request.urlopen("{hub.endpoint}/expire")
rest = [b.names for b in batches(data, sources, start=1, stop=8)]
print(len(first + rest))
"""
    assert there(hub, tmp_path, script) == 8
    refused = [request for request in hub.requests if request == "expired"]
    assert refused


def test_rows_without_a_transcript_are_left_out_when_they_are_drawn(hub: HubStub, tmp_path: Path) -> None:
    path = hub.root / "me/long/data/train-00000-of-00006.parquet"
    table = pyarrow.parquet.read_table(path)
    table = table.set_column(2, "text", pyarrow.array(["..."] * len(table)))
    pyarrow.parquet.write_table(table, path, row_group_size=ROWS)
    script = """
data, sources = opened(streaming=True)
found = [[b.names, [[s.name, s.reason] for s in b.skipped]] for b in batches(data, sources, stop=75)]
print(json.dumps([[n for names, _ in found for n in names], [s for _, skips in found for s in skips]]))
"""
    names, skipped = there(hub, tmp_path, script)
    assert sorted(skipped) == sorted([f"0-{row}", "empty_text"] for row in range(GROUPS * ROWS))
    assert len(names) == (FILES - 1) * GROUPS * ROWS
    assert not any(name.startswith("0-") for name in names)
