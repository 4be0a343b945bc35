"""Training from cached encoder outputs is training from audio; what is encoded once is never encoded again."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from clips import read_lines, write, write_bad_files, write_manifest
from runs import run_together
from tiny_audio.cli import main
from tiny_audio.config import Config, DataConfig, DatasetConfig, PathsConfig, TrainingConfig
from tiny_audio.data.loader import Batch, ClipDataset, eval_loader
from tiny_audio.data.plan import SamplingPlan
from tiny_audio.data.sources import Source, open_source
from tiny_audio.errors import UserError
from tiny_audio.lengths import num_clip_frames
from tiny_audio.model.encoder import SpeechEncoder
from tiny_audio.training import feature_cache
from tiny_audio.training.ctc_warmup import CLIPS
from tiny_audio.training.feature_cache import cache_features, clips_to_read

DATA = DataConfig()


class SamplesAsFrames:
    """In the place of an encoder: a frame is the 320 samples that it stands for, so that frames can be traced back."""

    encoder_dim, convention, name = 320, "samples", "samples"

    def __init__(self, fingerprint: str = "weights", fail_at: int = 1000, how: object = None) -> None:
        self.fingerprint, self.fail_at, self.how = fingerprint, fail_at, how
        self.calls = self.clips = 0

    def __call__(self, waveforms: Tensor, num_samples: Tensor) -> tuple[Tensor, list[int]]:
        self.calls += 1
        self.clips += len(num_samples)
        if self.calls == self.fail_at:
            if not isinstance(self.how, signal.Signals):
                raise RuntimeError("killed")
            signal.raise_signal(self.how)
        lengths = self.num_frames(num_samples)
        frames = [row[: 320 * n].view(-1, 320) for row, n in zip(waveforms, lengths, strict=True)]
        return torch.cat(frames), [len(clip) for clip in frames]

    def num_frames(self, num_samples: Tensor) -> list[int]:
        return [num_clip_frames(n) for n in num_samples.tolist()]


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


def cache(
    sources: list[Source], folder: Path, accelerator: Accelerator, encoder: object = None, num_workers: int = 0
) -> SamplesAsFrames:
    encoder = encoder or SamplesAsFrames()
    config = Config(paths=PathsConfig(cache_dir=str(folder)), training=TrainingConfig(batch_size=4))
    wanted = [(number, row) for number, source in enumerate(sources) for row in range(len(source))]
    cache_features(config, encoder, sources, wanted, accelerator, num_workers)  # type: ignore[arg-type]
    return encoder  # type: ignore[return-value]


def a_corpus(folder: Path, count: int = 10, name: str = "train.jsonl") -> Path:
    rng = np.random.default_rng(0)
    for i in range(count):
        if not (folder / f"{i}.wav").is_file():
            write(folder / f"{i}.wav", rng.uniform(0.3, 2.0))
    return write_manifest(folder / name, [{"audio": f"{i}.wav", "text": f"clip {i}"} for i in range(count)])


def open_all(tmp_path: Path, data: DataConfig = DATA) -> list[Source]:
    """A good corpus, and one with every kind of unusable file that only shows when it is read, and two good ones."""
    bad = tmp_path / "bad"
    if not bad.is_dir():
        due = write_bad_files(bad)
        good = [write(bad / f"good{i}.wav", 2.0).name for i in range(2)]
        said = [{"audio": name, "text": "word", "duration": 2.0} for name in [*due, *good]]
        said.append({"audio": write(bad / "longest.wav", 30.005).name, "text": "word", "duration": 30.0})
        said.append({"audio": write(bad / "grown.wav", 2.5).name, "text": "word", "duration": 2.0})
        write_manifest(bad / "bad.jsonl", said)
    paths = (a_corpus(tmp_path / "good"), bad / "bad.jsonl")
    return [open_source(DatasetConfig(path=str(path)), data, tmp_path) for path in paths]


def read(sources: list[Source], num_workers: int = 0, data: DataConfig = DATA) -> list[Batch]:
    dataset = ClipDataset(sources, lambda text: [*text.encode()], data)
    return list(eval_loader(dataset, 4, num_workers=num_workers))


def assert_same(cached: list[Batch], decoded: list[Batch]) -> None:
    for one, other in zip(cached, decoded, strict=True):
        for name in ("transcripts", "names", "sources", "draws", "skipped", "audio_seconds"):
            assert getattr(one, name) == getattr(other, name), name
        assert torch.equal(one.num_samples, other.num_samples)
        assert [ids.tolist() for ids in one.target_ids] == [ids.tolist() for ids in other.target_ids]
        assert one.waveforms.shape == (0, 0)
        if len(other):
            expected, lengths = SamplesAsFrames()(other.waveforms, other.num_samples)
            assert len(one.features) == sum(lengths)
            assert one.features is not None
            assert torch.equal(one.features, expected.half())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_those_of_the_audio(num_workers: int, tmp_path: Path, accelerator: Accelerator) -> None:
    """Unusable recordings included, and whatever the limits on length are when a clip is drawn."""
    cache(open_all(tmp_path), tmp_path / "cache", accelerator, num_workers=num_workers)
    for data in (DATA, DataConfig(min_audio_length=0.005), DataConfig(max_audio_length=2.0)):
        sources = open_all(tmp_path, data)
        assert cache(sources, tmp_path / "cache", accelerator).calls == 0, "encoded already"
        decoded = read(open_all(tmp_path, data), data=data)
        assert_same(read(sources, num_workers, data), decoded)
        skipped = [skip for batch in decoded for skip in batch.skipped]
        assert len({skip.reason for skip in skipped}) >= 5, "all kinds were met"


def test_only_what_is_new_is_encoded(tmp_path: Path, accelerator: Accelerator) -> None:
    def encoded(name: str, count: int, encoder: SamplesAsFrames | None = None) -> int:
        sources = [open_source(DatasetConfig(path=str(a_corpus(tmp_path, count, name))), DATA, tmp_path)]
        clips = cache(sources * 2, tmp_path / "cache", accelerator, encoder).clips  # drawn twice, encoded once
        assert_same(read(sources), read([open_source(DatasetConfig(path=str(tmp_path / name)), DATA, tmp_path)]))
        return clips

    assert encoded("a.jsonl", 6) == 6
    assert encoded("a.jsonl", 6) == 0
    assert encoded("part.jsonl", 4) == 0
    assert encoded("more.jsonl", 10) == 4
    write(tmp_path / "3.wav", 0.7)  # replaced
    assert encoded("more.jsonl", 10) == 1
    assert encoded("more.jsonl", 10, SamplesAsFrames("other weights")) == 10


def test_only_what_a_run_reads_is_encoded_in_the_order_in_which_it_is_read(tmp_path: Path, accelerator) -> None:
    """The evaluation first, and before all of it the batch with the longest clip, which may not fit."""
    train, dev = (
        open_source(DatasetConfig(path=str(a_corpus(tmp_path / name, count))), DATA, tmp_path)
        for name, count in (("train", 60), ("dev", 4))
    )
    plan = SamplingPlan([train.durations], [1.0], 4, seed=3)
    wanted = clips_to_read(plan, range(2, 5), [dev])
    by_length = np.argsort(-dev.durations, kind="stable").tolist()
    drawn = [draw.row for number in range(2, 5) for draw in plan.batch(number)]
    assert wanted == [*((1, row) for row in by_length), *((0, row) for row in drawn)]
    assert len(clips_to_read(plan, range(10**9), [])) == 60, "once each, and no longer looked for than needed"

    class Listening(SamplesAsFrames):
        def __call__(self, waveforms: Tensor, num_samples: Tensor) -> tuple[Tensor, list[int]]:
            heard.append(sorted(num_samples.tolist()))
            return super().__call__(waveforms, num_samples)

    heard: list[list[int]] = []
    config = Config(paths=PathsConfig(cache_dir=str(tmp_path / "cache")), training=TrainingConfig(batch_size=4))
    cache_features(config, Listening(), [train, dev], wanted, accelerator, 0)  # type: ignore[arg-type]
    seconds = [(train, dev)[number].durations[row] for number, row in wanted]
    samples = [round(16_000 * float(s)) for s in seconds]
    batches = [sorted(samples[i : i + 4]) for i in range(0, 16, 4)]
    assert heard[0] == max(batches, key=max)
    assert heard[1:] == [batch for batch in batches if batch != heard[0]]
    assert train.rows_at_hand(0).tolist() == sorted(drawn)
    assert_same(
        [ClipDataset([train], lambda text: [0], DATA).__getitems__(plan.batch(3))],
        [
            ClipDataset(
                [open_source(DatasetConfig(path=str(tmp_path / "train/train.jsonl")), DATA, tmp_path)],
                lambda text: [0],
                DATA,
            ).__getitems__(plan.batch(3))
        ],
    )


def fail_sources(tmp_path: Path) -> list[Source]:
    return [open_source(DatasetConfig(path=str(a_corpus(tmp_path, 20))), DATA, tmp_path)]


@pytest.mark.parametrize(("how", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_stopped_computation_goes_on(how: signal.Signals, error: type, tmp_path: Path, accelerator) -> None:
    handler = signal.getsignal(how)
    with pytest.raises(error):
        cache(fail_sources(tmp_path), tmp_path / "cache", accelerator, SamplesAsFrames(fail_at=3, how=how))
    assert signal.getsignal(how) is handler
    sources = fail_sources(tmp_path)
    assert cache(sources, tmp_path / "cache", accelerator).clips == 20 - 3 * 4, "the batch was finished"
    assert_same(read(sources), read(fail_sources(tmp_path)))


def test_a_killed_computation_goes_on_after_its_last_shard(tmp_path: Path, accelerator, monkeypatch) -> None:
    monkeypatch.setattr(feature_cache, "SHARD_SECONDS", 0.0)
    with pytest.raises(RuntimeError, match="killed"):
        cache(fail_sources(tmp_path), tmp_path / "cache", accelerator, SamplesAsFrames(fail_at=4))
    sources = fail_sources(tmp_path)
    assert cache(sources, tmp_path / "cache", accelerator).clips == 20 - 3 * 4
    assert_same(read(sources), read(fail_sources(tmp_path)))


def test_too_small_a_disk_is_one_line(tmp_path: Path, accelerator: Accelerator, monkeypatch) -> None:
    """The size that is told is the size that comes."""
    encoder = SamplesAsFrames()
    sources = fail_sources(tmp_path)
    frames = sum(-(-int(seconds * 16_000) // 320) for seconds in sources[0].durations.tolist())
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=frames * 320 * 2 - 1))
    with pytest.raises(UserError, match=r"20 clips \(.*\) need .* MB, and .* has .* MB free; set paths.cache_dir"):
        cache(sources, tmp_path / "cache", accelerator, encoder)
    assert encoder.calls == 0
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=frames * 320 * 2))
    cache(sources, tmp_path / "cache", accelerator, encoder)
    assert sources[0].features.num_frames.sum() == frames


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, accelerator: Accelerator, monkeypatch) -> None:
    with pytest.raises(UserError, match=r"^paths.cache_dir: /proc/nothing/features/.* cannot be made or written"):
        cache(fail_sources(tmp_path), Path("/proc/nothing"), accelerator)

    def full(folder: Path, clips: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_cache, "write_shard", full)
    with pytest.raises(UserError, match=r"^paths.cache_dir: .* cannot be written \(No space left on device\)"):
        cache(fail_sources(tmp_path), tmp_path / "cache", accelerator)


@pytest.mark.parametrize(("value", "said"), [(7e4, "puts out 70000;"), (float("nan"), "puts out nan;")])
def test_what_16_bits_cannot_hold_is_one_line(value: float, said: str, tmp_path: Path, accelerator) -> None:
    class Loud(SamplesAsFrames):
        def __call__(self, waveforms: Tensor, num_samples: Tensor) -> tuple[Tensor, list[int]]:
            frames, lengths = super().__call__(waveforms, num_samples)
            frames[3, 5] = value
            return frames, lengths

    with pytest.raises(UserError, match=rf"keeps 16 bits \(largest value 65504\), and samples {said} set data.cache_f"):
        cache(fail_sources(tmp_path), tmp_path / "cache", accelerator, Loud())


def losses(folder: Path) -> dict[tuple[int, str], float]:
    rows = read_lines(folder / "outputs/transcription/metrics.jsonl")
    wanted = ("train/loss", "train/grad_norm", "eval/loss", "eval/wer")
    return {(row["step"], key): row[key] for row in rows for key in wanted if key in row}


def test_a_run_from_the_cache_is_the_run_without(run_settings, tmp_path, monkeypatch, capsys):
    """Losses, evaluation, and going on from a checkpoint of a run without; the second run encodes nothing."""

    def train(name: str, *more: str) -> dict[tuple[int, str], float]:
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / name)
        arguments = [*run_settings, "training.save_steps=2", f"paths.cache_dir={tmp_path}/cache", *more]
        assert main(["train", *arguments]) == 0, capsys.readouterr().err
        return losses(tmp_path / name)

    def refuse(*args: object) -> None:
        raise AssertionError("the encoder was used")

    audio = train("audio")
    assert not (tmp_path / "cache/features").exists()
    cached = train("cached", "data.cache_features=true")
    assert "[INFO] Encoder outputs: 48 clips in cache (" in capsys.readouterr().err, (
        "those of the size it starts from, too"
    )
    assert cached.keys() == audio.keys()
    assert len(audio) == 4 * 2 + 2
    assert cached == pytest.approx(audio, rel=1e-3), "16 bits"

    checkpoints = tmp_path / "goes-on/outputs/transcription/checkpoints"
    checkpoints.mkdir(parents=True)
    shutil.copy(tmp_path / "audio/outputs/transcription/checkpoints/checkpoint-step-2.pt", checkpoints)
    monkeypatch.setattr(SpeechEncoder, "forward", refuse)
    again = train("again", "data.cache_features=true", "data.num_workers=1", "training.seed=42")
    assert again == cached
    gone_on = train("goes-on", "data.cache_features=true")
    assert gone_on == pytest.approx({key: value for key, value in audio.items() if key[0] > 2}, rel=1e-3)
    train("part", "data.cache_features=true", "data.text_case=keep")
    half = train("half", "data.cache_features=true", "hardware.mixed_precision=bf16")
    assert half == pytest.approx(audio, rel=0.2), "another precision encodes nothing again"


def test_two_processes_encode_a_share_each(run_settings, tmp_path, monkeypatch, capsys):
    arguments = ["train", *run_settings, "data.cache_features=true", "training.batch_size=4", "training.max_steps=2"]
    statuses, log = run_together(arguments, tmp_path)
    assert statuses == [0, 0], log
    assert len(list((tmp_path / "cache/features").glob("*/*.safetensors"))) == 2
    # The evaluation set, two steps of two batches of four, and those of the clips that the size is set by.
    (both,) = map(int, re.findall(r"Encoder outputs: (\d+) clips in cache", log))
    assert 10 + 16 <= both <= 10 + 16 + CLIPS
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "paths.output_dir=alone"]) == 0
    log = capsys.readouterr().err
    (alone,) = map(int, re.findall(r"Encoder outputs: (\d+) clips in cache", log))
    assert 10 + 8 <= alone < both, "half of those that were drawn by the two"
    assert "Encoding" not in log
