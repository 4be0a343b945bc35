"""How soon a streamed corpus gives its first batch, and how fast it then goes on, from a Hub on this machine.

    python benchmarks/streaming.py --files 200 --latency 20 50 100 --limit 300

The stand-in answers every request after the latency; with a limit it answers so many requests in ten seconds and
refuses the others (HTTP 429, Retry-After). Its storage, as the Hub's, is not limited.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import soundfile

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from clips import tone
from hub_stub import HubStub, at_hub, serving
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data.loader import ClipDataset, train_loader
from tiny_audio.data.plan import SamplingPlan
from tiny_audio.data.sources import open_sources

GROUPS, ROWS = 10, 100  # of a file, and of a row group
BATCH, STEPS = 16, 100
STEP_SECONDS = 0.1  # what a GPU takes for a batch
WINDOW_SECONDS = 10.0


def write_corpus(root: Path, files: int) -> None:
    """Write a corpus whose files are one file under many names."""
    recording = io.BytesIO()
    soundfile.write(recording, tone(0.5), 16_000, format="OGG", subtype="OPUS")
    audio = {"bytes": recording.getvalue(), "path": "a.opus"}
    rows = [{"id": str(row), "audio": audio, "text": "one two"} for row in range(GROUPS * ROWS)]
    text = datasets.Value("string")
    features = datasets.Features(id=text, audio=datasets.Audio(), text=text)
    first = root / "me/long/data" / f"train-00000-of-{files:05}.parquet"
    first.parent.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, features.arrow_schema), first, row_group_size=ROWS)
    for number in range(1, files):
        os.link(first, first.with_name(f"train-{number:05}-of-{files:05}.parquet"))


def measure(hub: HubStub, folder: Path) -> None:
    """Open the corpus as a run does, draw batches, and print a line."""
    data = DataConfig(streaming=True)
    hub.requests.clear()
    hub.refused, began = 0, time.perf_counter()
    with at_hub(hub.endpoint, folder) as cache:
        entry = DatasetConfig(path="me/long")
        sources = open_sources([entry], data, cache, limit=None, seed=0, as_drawn=True)
        opened, asked = time.perf_counter() - began, len(hub.requests)
        plan = SamplingPlan([one.durations for one in sources], [1.0], BATCH, 0, blocks=[one.blocks for one in sources])
        loader = train_loader(plan, ClipDataset(sources, lambda text: [1], data), stop_batch=STEPS, num_workers=2)
        waited = []
        before = time.perf_counter()
        for _ in loader:
            waited.append(time.perf_counter() - before)
            time.sleep(STEP_SECONDS)
            before = time.perf_counter()
    later = 1000 * sum(waited[1:]) / (STEPS - 1)
    print(
        f"latency {1000 * hub.latency:.0f} ms, limit {hub.limit}: opened in {opened:.1f} s by {asked:,} requests, "
        f"first batch after {waited[0]:.1f} s more; then {later:.0f} ms a step waited for data, "
        f"{len(hub.requests):,} requests in all, {hub.refused} refused"
    )


def main() -> None:
    """Measure, a line for each latency, without and with the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--latency", type=float, nargs="+", default=[20, 50, 100], help="milliseconds")
    parser.add_argument("--limit", type=int, default=300, help="requests in ten seconds")
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_corpus(root / "hub", given.files)
        groups = given.files * GROUPS
        print(f"{given.files} files, {groups:,} row groups, {groups * ROWS:,} clips")
        with serving(root / "hub") as hub:
            hub.window = WINDOW_SECONDS
            for number, limit in enumerate((None, given.limit)):
                for latency in given.latency:
                    hub.latency, hub.limit = latency / 1000, limit
                    measure(hub, root / f"{number}-{latency:g}")


if __name__ == "__main__":
    main()
