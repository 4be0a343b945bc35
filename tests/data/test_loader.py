"""From draws to batches: the same whatever the number of workers, and nothing unusable gets through."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from clips import tone, write, write_bad_files, write_manifest
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data.loader import Batch, ClipDataset, eval_loader, train_loader
from tiny_audio.data.plan import Draw, SamplingPlan
from tiny_audio.data.sources import Source, open_source, open_sources
from tiny_audio.lengths import align_samples

DATA = DataConfig()
EOS = 1


def tokenize(text: str) -> list[int]:
    return [*text.encode(), EOS]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """Two corpora of 20 and 9 clips between 0.2 and 1.2 s."""
    folder = tmp_path_factory.mktemp("loader")
    rng = np.random.default_rng(0)
    entries = []
    for name, size, weight in (("a", 20, 0.7), ("b", 9, 0.3)):
        rows = []
        for i in range(size):
            write(folder / f"{name}{i}.flac", rng.uniform(0.2, 1.2))
            rows.append({"audio": f"{name}{i}.flac", "text": f"{name} {i}"})
        manifest = write_manifest(folder / f"{name}.jsonl", rows)
        entries.append(DatasetConfig(path=str(manifest), weight=weight))
    return open_sources(entries, DATA, folder / "cache", limit=None, seed=0)


def a_plan(sources: Sequence[Source], batch_size: int = 4) -> SamplingPlan:
    return SamplingPlan([s.durations for s in sources], [s.weight for s in sources], batch_size, seed=7)


def assert_equal(one: Batch, other: Batch) -> None:
    assert torch.equal(one.waveforms, other.waveforms)
    assert torch.equal(one.num_samples, other.num_samples)
    assert [ids.tolist() for ids in one.target_ids] == [ids.tolist() for ids in other.target_ids]
    for name in ("transcripts", "names", "sources", "draws", "skipped", "audio_seconds"):
        assert getattr(one, name) == getattr(other, name)


def test_a_batch_is_what_its_documentation_says(sources: list[Source]) -> None:
    plan = a_plan(sources)
    batch = ClipDataset(sources, tokenize, DATA).__getitems__(plan.batch(3))
    assert batch.waveforms.dtype == torch.float32
    assert batch.waveforms.shape == (4, align_samples(int(batch.num_samples.max())))
    assert batch.num_samples.dtype == torch.int64
    seconds = 0.0
    for row, draw in enumerate(plan.batch(3)):
        source = sources[draw.source]
        waveform = source.read(draw.row)
        seconds += len(waveform) / 16_000
        assert np.array_equal(batch.waveforms[row, : len(waveform)].numpy(), waveform)
        assert batch.waveforms[row, len(waveform) :].abs().sum() == 0
        assert batch.num_samples[row] == len(waveform)
        assert batch.names[row] == source.names[draw.row]
        assert batch.transcripts[row] == source.texts[draw.row]
        assert batch.target_ids[row].dtype == torch.int64
        assert batch.target_ids[row].tolist() == tokenize(source.texts[draw.row])
        assert (batch.sources[row], batch.draws[row]) == (draw.source, draw.number)
    assert batch.audio_seconds == pytest.approx(seconds)
    assert batch.skipped == []
    assert len(batch) == 4
    assert_equal(pickle.loads(pickle.dumps(batch)), batch)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_workers_change_nothing(num_workers: int, sources: list[Source]) -> None:
    plan, dataset = a_plan(sources), ClipDataset(sources, tokenize, DATA)
    before = torch.random.get_rng_state()
    loader = train_loader(plan, dataset, start_batch=5, num_workers=num_workers, stop_batch=17)
    batches = list(loader)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len(batches) == 12
    for number, batch in enumerate(batches, 5):
        assert_equal(batch, dataset.__getitems__(plan.batch(number)))


def test_processes_share_the_batches_out(sources: list[Source]) -> None:
    plan, dataset = a_plan(sources), ClipDataset(sources, tokenize, DATA)
    for index in range(2):
        loader = train_loader(plan, dataset, start_batch=4, process_index=index, num_processes=2)
        for step, batch in enumerate(islice(loader, 3)):
            assert_equal(batch, dataset.__getitems__(plan.batch(4 + 2 * step + index)))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_covers_each_clip_once_longest_first(num_workers: int, sources: list[Source]) -> None:
    dataset = ClipDataset(sources, tokenize, DATA)
    loader = eval_loader(dataset, 4, num_workers=num_workers)
    first, second = list(loader), list(loader)
    assert len(first) == len(loader) == 8
    for one, other in zip(first, second, strict=True):
        assert_equal(one, other)
    names = [name for batch in first for name in batch.names]
    assert sorted(names) == sorted([*sources[0].names, *sources[1].names])
    longest = [batch.num_samples.max().item() for batch in first]
    assert longest == sorted(longest, reverse=True)
    halves = [list(eval_loader(dataset, 4, process_index=i, num_processes=2)) for i in range(2)]
    assert sorted(name for half in halves for batch in half for name in batch.names) == sorted(names)


def test_a_batch_without_a_usable_clip_is_empty(tmp_path: Path) -> None:
    due = write_bad_files(tmp_path / "bad")
    rows = [{"audio": name, "text": "word", "duration": 2.0} for name in due]
    path = write_manifest(tmp_path / "bad" / "a.jsonl", rows)
    source = open_source(DatasetConfig(path=str(path)), DATA, tmp_path / "cache")
    draws = [Draw(i, 0, i) for i in range(len(due))]
    batch = ClipDataset([source], tokenize, DATA).__getitems__(draws)
    assert len(batch) == 0
    assert batch.waveforms.shape == (0, 0)
    assert batch.num_samples.shape == (0,)
    assert batch.target_ids == []
    assert batch.audio_seconds == 0
    assert len(batch.skipped) == len(due)
    assert_equal(pickle.loads(pickle.dumps(batch)), batch)


def test_other_errors_are_not_swallowed(sources: list[Source]) -> None:
    def fail(text: str) -> list[int]:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        next(iter(eval_loader(ClipDataset(sources, fail, DATA), 4)))


INTERRUPTED = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests themselves run in the background
from pathlib import Path
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data.loader import ClipDataset, train_loader
from tiny_audio.data.plan import SamplingPlan
from tiny_audio.data.sources import Source, open_source, open_sources
from tiny_audio.lengths import align_samples

source = open_source(DatasetConfig(path=sys.argv[1]), DataConfig(), Path(sys.argv[2]))
plan = SamplingPlan([source.durations], [1.0], 2, 0)
batches = iter(train_loader(plan, ClipDataset([source], lambda text: [1], DataConfig()), num_workers=2))
next(batches), next(batches)  # one of each worker
try:
    print("ready", flush=True)
    time.sleep(30)
except KeyboardInterrupt:
    print("interrupted", len(next(batches)), flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_workers_leave_ctrl_c_to_the_main_process(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 1.0)
    manifest = write_manifest(tmp_path / "a.jsonl", [{"audio": "a.wav", "text": "a"}])
    run = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(manifest), str(tmp_path / "cache")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "ready\n"
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to the main process and to all workers
    output, errors = run.communicate(timeout=20)
    assert output == "interrupted 2\n"
    assert errors == ""
    assert run.returncode == 0


def test_tone_is_not_silent() -> None:
    """The clips of these tests would otherwise prove nothing."""
    assert np.abs(tone(0.2)).max() > 0.1


ORPHAN = """
import os, sys
from tiny_audio.data import loader

parent = os.getpid()
if os.fork() == 0:
    while os.getppid() == parent:
        pass
    loader._start_worker(0, parent)
    print("waits for ever")
"""


def test_a_worker_whose_run_was_killed_as_it_started_ends() -> None:
    run = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, text=True, timeout=60)
    assert run.stdout == run.stderr == ""
