"""The known corpora, by the settings that ship, from stand-ins with their columns and quirks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hub_stub import HubStub, at_hub, serving
from standins import STANDINS, rows
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data import remote
from tiny_audio.data.loader import ClipDataset, train_loader
from tiny_audio.data.plan import POOL_BLOCKS, SamplingPlan, shuffle_blocks
from tiny_audio.data.sources import open_source, open_sources
from tiny_audio.errors import FetchError

COUNT = 24
CONFIGS = Path(__file__).parents[2] / "configs" / "data"


@pytest.fixture(scope="module")
def hub(standins: Path) -> Iterator[HubStub]:
    with serving(standins) as server:
        yield server


def told(entry: dict[str, Any], data: DataConfig, cache: Path, limit: int | None = None) -> dict[str, Any]:
    """All that an opened corpus says."""
    source = open_source(DatasetConfig(**entry), data, cache, limit)
    return {
        "texts": list(source.texts),
        "names": list(source.names),
        "speakers": list(source.speakers) if source.speakers else None,
        "seconds": [len(source.read(row)) / 16_000 for row in range(len(source))],
        "durations": source.durations.tolist(),
        "skipped": [(skip.name, skip.reason) for skip in source.skipped],
        "origin": source.origin,
    }


def open_all(
    hub: HubStub, folder: Path, limit: int | None, streaming: bool, endpoint: str = ""
) -> list[dict[str, Any]]:
    with at_hub(endpoint or hub.endpoint, folder) as cache:
        data = DataConfig(streaming=streaming)
        return [told(standin.entry, data, cache, limit) for standin in STANDINS.values()]


@pytest.mark.parametrize("way", ["whole", "streamed", "folder"])
def test_every_corpus_is_cleaned_and_no_row_is_lost(way: str, hub: HubStub, standins: Path, tmp_path: Path) -> None:
    if way == "folder":
        paths = {name: str(standins / standin.repository) for name, standin in STANDINS.items()}
        opened = [told(one.entry | {"path": paths[name]}, DataConfig(), tmp_path) for name, one in STANDINS.items()]
    else:
        opened = open_all(hub, tmp_path, None, way == "streamed")
    for (name, standin), source in zip(STANDINS.items(), opened, strict=True):
        due = [taught for _, taught in rows(standin, COUNT)]
        assert source["texts"] == [taught for taught in due if taught is not None], name
        assert [reason for _, reason in source["skipped"]] == ["empty_text"] * due.count(None), name
        lengths = [0.5 + 0.02 * number for number, taught in enumerate(due) if taught is not None]
        np.testing.assert_allclose(source["seconds"], lengths, atol=0.06)  # mp3 pads a frame
        listed = name in ("gigaspeech", "loquacious")
        if way != "streamed" or listed:
            np.testing.assert_allclose(source["durations"], lengths, atol=0.06)


def test_a_quick_test_fetches_a_few_row_groups(hub: HubStub, tmp_path: Path) -> None:
    before = hub.sent
    opened = open_all(hub, tmp_path, 3, False)
    sent = hub.sent - before
    for standin, source in zip(STANDINS.values(), opened, strict=True):
        assert 3 <= len(source["texts"]) <= 8  # of one row group or two
        assert set(source["texts"]) <= {taught for _, taught in rows(standin, COUNT)}
        assert source["origin"].startswith(f"{standin.repository}@0123456789ab (")
    whole = sum((hub.root / s.repository / file).stat().st_size for s in STANDINS.values() for file in s.files)
    footers = 65_536 * sum(len(standin.files) for standin in STANDINS.values())  # read whole, of a file of any size
    assert sent - footers < whole / 3, (sent, whole)  # 4 or 8 rows of 24
    before = hub.sent
    assert open_all(hub, tmp_path, 3, False, endpoint="http://127.0.0.1:9") == opened  # and then needs no Hub
    assert hub.sent == before


def test_a_stream_needs_no_hub_for_what_it_has_read(hub: HubStub, tmp_path: Path) -> None:
    first = open_all(hub, tmp_path, None, True)
    assert open_all(hub, tmp_path, None, True, endpoint="http://127.0.0.1:9") == first


def draw(cache: Path, entry: dict[str, Any], workers: int, start: int, disk_gb: float) -> list[Any]:
    data = DataConfig(streaming=True, streaming_disk_gb=disk_gb)
    source = open_source(DatasetConfig(**entry), data, cache)
    plan = SamplingPlan([source.durations], [1.0], 4, 3, blocks=[source.blocks])
    dataset = ClipDataset([source], lambda text: [1], data)
    loader = train_loader(plan, dataset, start_batch=start, stop_batch=10, num_workers=workers)
    return [[batch.names, batch.waveforms.double().sum().item()] for batch in loader]


def test_a_stream_is_drawn_in_one_order_whatever_disk_and_workers(
    hub: HubStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for one row group only, most of them are fetched again; the clips are the same."""
    monkeypatch.setattr(remote, "FRESH_SECONDS", 0.02)
    drawn, kept = [], []
    for workers, start, disk_gb in ((0, 0, 1), (2, 0, 1e-6), (0, 4, 1)):
        with at_hub(hub.endpoint, tmp_path / str(len(drawn))) as cache:
            drawn.append(draw(cache, STANDINS["voxpopuli"].entry, workers, start, disk_gb))
            kept.append(len(list(cache.rglob("*.arrow"))))
    assert drawn[0] == drawn[1]
    assert drawn[2] == drawn[0][4:]
    assert kept[0] == 6
    assert kept[1] <= 4, "one a worker, and what was fetched last"


def test_shuffles_of_a_stream_keep_blocks_together() -> None:
    blocks = np.repeat(np.arange(100, dtype=np.int32), 7)
    order = shuffle_blocks(blocks, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(700))
    pools = [set(blocks[order[i : i + 7 * POOL_BLOCKS]].tolist()) for i in range(0, 700, 7 * POOL_BLOCKS)]
    assert all(len(pool) <= POOL_BLOCKS for pool in pools)
    assert len(set().union(*pools)) == 100
    assert blocks[order[:7]].std() > 5, "and mixed among them"


def test_another_text_column_of_a_stream_can_be_named_later(hub: HubStub, tmp_path: Path) -> None:
    """What was kept of the first start holds the usual columns alone."""
    for column, said in ((None, "thank you mr president"), ("raw_text", "raw text0")):
        entry = STANDINS["voxpopuli"].entry | {"text_column": column}
        with at_hub(hub.endpoint, tmp_path) as cache:
            assert told(entry, DataConfig(streaming=True), cache)["texts"][0] == said


def test_a_download_that_breaks_off_goes_on(hub: HubStub, tmp_path: Path) -> None:
    hub.failures = 3
    assert len(open_all(hub, tmp_path, None, False)[0]["texts"]) == COUNT - 1
    assert hub.failures == 0


def test_the_shares_of_the_mixture_are_its_weights(standins: Path, tmp_path: Path) -> None:
    """Over 10,000 draws of the shipped mixture."""
    shipped = yaml.safe_load((CONFIGS / "multi_asr.yaml").read_text())["datasets"]
    repositories = {standin.entry["name"]: standin.repository for standin in STANDINS.values()}
    entries = [DatasetConfig(**entry, path=str(standins / repositories[entry["name"]])) for entry in shipped]
    sources = open_sources(entries, DataConfig(), tmp_path, limit=None, seed=0)
    for temperature in (1.0, 2.0):
        weights = np.array([source.weight for source in sources]) ** (1 / temperature)
        plan = SamplingPlan(
            [source.durations for source in sources], [source.weight for source in sources], 16, 7, temperature
        )
        drawn = [draw.source for number in range(625) for draw in plan.batch(number)]
        assert len(drawn) == 10_000
        shares = np.bincount(drawn, minlength=len(sources)) / len(drawn)
        np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.01)


def test_a_worker_that_cannot_fetch_says_so_in_a_line(
    hub: HubStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index is there, the Hub is not any more."""
    entry = STANDINS["tedlium"].entry
    with at_hub(hub.endpoint, tmp_path) as cache:
        draw(cache, entry, 1, 0, 1)
    for arrow in cache.rglob("*.arrow"):
        arrow.unlink()
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with (
        at_hub("http://127.0.0.1:9", tmp_path) as cache,
        pytest.raises(FetchError, match=r"^Could not fetch the dataset sanchit-gandhi/tedlium-data: the Hugging"),
    ):
        draw(cache, entry, 1, 0, 1)
