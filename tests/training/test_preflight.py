"""Preflight: what it finds is so, what it suggests does, and the run is the one without it."""

from __future__ import annotations

import os
import re
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from clips import write, write_manifest
from runs import metrics, run_apart, run_together, settings
from tiny_audio.cli import main
from tiny_audio.config import Config, DataConfig, DatasetConfig, ModelConfig, ProjectorConfig, TrainingConfig
from tiny_audio.data.loader import ClipDataset
from tiny_audio.data.plan import SamplingPlan
from tiny_audio.data.sources import open_source
from tiny_audio.data.synthetic import synthetic_batch
from tiny_audio.errors import UserError
from tiny_audio.model import decoder
from tiny_audio.model.build import build_speech_llm
from tiny_audio.model.speech_llm import SpeechLLM
from tiny_audio.training import preflight as package
from tiny_audio.training.checkpoint import CheckpointFolder, load_checkpoint
from tiny_audio.training.preflight import memory, preflight, readable
from tiny_audio.training.preflight.memory import Trial, describe_clips, judge, longest_clips, noise, suggest
from tiny_audio.training.preflight.readable import Sample, audio_per_second
from tiny_audio.training.preflight.speed import check_speed, measure_throughput

CPU = torch.device("cpu")


@pytest.fixture
def long_enough(monkeypatch) -> None:
    """As if every run were long enough for the costly part."""
    monkeypatch.setattr(package, "MIN_STEPS", 1)
    monkeypatch.setattr(memory, "CPU_SECONDS", 1000.0)


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture(scope="module")
def model(tiny_models) -> SpeechLLM:
    projector = ProjectorConfig(hidden_dim=64)
    return build_speech_llm(
        ModelConfig(str(tiny_models.glm_asr), None, str(tiny_models.qwen3), None, "clip", projector_config=projector),
        torch.float32,
    )


@pytest.fixture
def source(corpus, tmp_path):
    return open_source(DatasetConfig(path=str(corpus / "train.jsonl")), DataConfig(), tmp_path)


def out_of_memory_above(monkeypatch, limit: int, key: str = "both") -> list[tuple[bool, int]]:
    """Let the model run out of memory with more clips than `limit`; return a list of (training, clips) tried."""
    loss, tried = SpeechLLM.loss, []

    def limited(self, frames, lengths, *more, **options):
        grad = torch.is_grad_enabled()
        tried.append((grad, len(lengths)))
        if len(lengths) > limit and key in ("both", "training" if grad else "evaluation"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return loss(self, frames, lengths, *more, **options)

    monkeypatch.setattr(SpeechLLM, "loss", limited)
    return tried


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("ta train: error: ")]


# No trace


def test_a_run_with_preflight_is_the_run_without(run_settings, tmp_path, monkeypatch, capsys, long_enough):
    """Every figure and every weight, to the last bit, from the start and on resuming."""
    attempt, attempted = memory.attempt, []

    def watched(trial, size, device):
        taken = attempt(trial, size, device)
        attempted.append((trial.key, size, taken is not None))
        return taken

    monkeypatch.setattr(memory, "attempt", watched)
    found = {}
    for name in ("true", "false"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        for steps in (2, 4):
            typed = [f"training.preflight={name}", f"training.max_steps={steps}", "training.eval_steps=2"]
            typed += ["training.ctc_warmup_steps=2", "training.max_new_tokens=5"]
            adapters = ["model.use_lora=true", "hardware.mixed_precision=bf16"]
            assert main([*settings(run_settings, *adapters), *typed]) == 0
        saved = load_checkpoint("outputs/transcription/checkpoints/checkpoint-step-4.pt")
        found[name] = metrics(Path()), saved["weights"], saved["rng"]["torch"], saved["optimizer"]["state"]
        if name == "true":
            said = capsys.readouterr().err
            assert re.search(r"the longest batch \(8 clips of .*\) fits: \d+ MB of", said)
            assert re.search(r"the longest evaluation batch \(10 clips of .*\) fits: \d+ MB of", said)
            assert attempted.count(("training.batch_size", 8, True)) == 2, "on resuming too"
            assert attempted.count(("training.eval_batch_size", 10, True)) == 2
            assert all(succeeded for _, _, succeeded in attempted)
            attempted.clear()
    assert attempted == []
    assert "Preflight" not in capsys.readouterr().err
    assert found["true"][0] == found["false"][0]
    assert len(found["true"][0]) > 4 * 4
    for ours, theirs in zip(found["true"][1:], found["false"][1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("limit", [3, 1000])
def test_nothing_is_left_behind(model, source, limit, tmp_path, monkeypatch, accelerator, long_enough):
    config = Config(training=TrainingConfig(max_steps=200, batch_size=8, eval_batch_size=8))
    dataset = ClipDataset([source], model.decoder.prompt.target_ids, config.data)
    plan = SamplingPlan([source.durations], [1.0], 8, seed=0)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    generators = torch.get_rng_state(), np.random.get_state()[1].copy()
    modes = {name: module.training for name, module in model.train().named_modules()}
    out_of_memory_above(monkeypatch, limit)
    (tmp_path / "checkpoints").mkdir()
    folder = CheckpointFolder(tmp_path / "checkpoints")
    arguments = (config, model, plan, dataset, [source], folder, 0, accelerator)
    if limit == 3:
        with pytest.raises(UserError, match=r"training\.batch_size=8 does not fit"):
            preflight(*arguments)
    else:
        preflight(*arguments)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert (np.random.get_state()[1] == generators[1]).all()
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert list((tmp_path / "checkpoints").iterdir()) == []


# Memory


@pytest.mark.parametrize(
    ("limit", "key", "message"),
    [
        (7, "training", "training.batch_size=16 does not fit: the longest batch (16 clips of 2.4 to 3 s) needs more "
         "than this process may have; training.batch_size=6 training.gradient_accumulation_steps=3 fits, with almost "
         "the same effective batch."),
        pytest.param(15, "training", "training.batch_size=8 training.gradient_accumulation_steps=2 fits, with the same "
                     "effective", marks=pytest.mark.slow),
        (1, "training", "training.batch_size=1 training.gradient_accumulation_steps=16 fits, with the same effective"),
        pytest.param(0, "training", "not even one clip fits: lower data.max_audio_length, or take smaller models.",
                     marks=pytest.mark.slow),
        pytest.param(7, "evaluation", "training.eval_batch_size=10 does not fit: the longest evaluation batch "
                     "(10 clips of ", marks=pytest.mark.slow),
        (7, "evaluation", "needs more than this process may have; training.eval_batch_size=6 fits."),
    ],
)  # fmt: skip
def test_a_batch_that_does_not_fit_is_one_line_with_one_that_does(
    run_settings, limit, key, message, tmp_path, monkeypatch, capsys, long_enough
):
    monkeypatch.chdir(tmp_path)
    tried = out_of_memory_above(monkeypatch, limit, key)
    assert main(["train", *run_settings, "training.batch_size=16", "training.max_new_tokens=3"]) == 2
    (error,) = errors(capsys.readouterr().err)
    assert message in error
    sizes = [size for grad, size in tried if grad == (key == "training")]
    assert len(sizes) <= 14, "bisection, with two passes of each smaller batch"
    assert not (tmp_path / "outputs/transcription/metrics.jsonl").exists(), "no run has begun"


def test_what_is_suggested_fits_and_changes_least(model):
    trial = SimpleNamespace(key="training.batch_size")
    for batch_size in range(2, 40):
        for steps in (1, 3):
            for fits in range(1, batch_size):
                given = TrainingConfig(batch_size=batch_size, gradient_accumulation_steps=steps)
                said = suggest(trial, given, fits)
                size, accumulated = map(int, re.findall(r"=(\d+)", said))
                effective = batch_size * steps
                assert size <= fits
                assert effective <= size * accumulated < effective + accumulated
                assert (accumulated - 1) * max(1, int(0.9 * fits)) < effective, "no more steps than needed"
                assert ("almost" in said) == (size * accumulated != effective)


def test_a_smaller_batch_is_tried_beside_gradients_and_moments(model, source, accelerator, monkeypatch):
    """What is suggested accumulates: it must fit then, too."""
    dataset = ClipDataset([source], model.decoder.prompt.target_ids, DataConfig())
    forward, seen = SpeechLLM.forward, []

    def watched(self, batch):
        seen.append((len(batch), self.projector.linear_1.weight.grad is not None))
        return forward(self, batch)

    monkeypatch.setattr(SpeechLLM, "forward", watched)
    trial = memory.training_trial(TrainingConfig(batch_size=8), model, dataset, accelerator)
    trial.run(trial.batch(8))
    trial.run(trial.batch(4))
    assert seen == [(8, False), (4, False), (4, True)]
    trained = sum(weight.nbytes for weight in model.projector.parameters())
    assert trial.fixed_bytes == 3 * trained


def test_the_evaluation_is_tried_with_the_cache_of_the_longest_transcript(model, source, accelerator, monkeypatch):
    assert model.decoder.reading, "found out by writing, too"
    write, seen = decoder.write_rows, []

    def watched(rows, limits, *more):
        seen.append((*rows._mask.shape, max(limits)))
        return write(rows, limits, *more)

    monkeypatch.setattr(decoder, "write_rows", watched)
    training = TrainingConfig(eval_batch_size=5, max_new_tokens=30)
    dataset = ClipDataset([source], model.decoder.prompt.target_ids, DataConfig())
    trial = memory.evaluation_trial(training, model, dataset, accelerator)
    trial.run(trial.batch(5))
    seconds = np.sort(source.durations)[::-1][:5].tolist()
    batch = synthetic_batch(seconds, [[1]] * 5)
    model.transcribe(*model.encode(batch), 30)
    (clips, read, written), (real_clips, prompt, limit) = seen
    assert (clips, read + written) == (real_clips, prompt + limit)
    assert 0 < written < limit == 30


def test_the_longest_clips_and_transcripts_are_found(corpus, tmp_path):
    sources = [
        open_source(DatasetConfig(path=str(corpus / name)), DataConfig(), tmp_path)
        for name in ("train.jsonl", "dev.jsonl")
    ]
    everything = [float(s) for source in sources for s in source.durations]
    texts = sorted((text for source in sources for text in source.texts), key=len)
    seconds, targets = longest_clips(sources, 16, lambda text: [1] * len(text))
    assert seconds == sorted(everything, reverse=True)[:16]
    assert [len(target) for target in targets] == [len(text) for text in texts[::-1][:16]]
    seconds, targets = longest_clips(sources[1:], 24, lambda text: [1] * len(text))
    assert len(seconds) == len(targets) == 24, "where there are fewer clips, they come again"
    assert seconds[10:20] == seconds[:10]


def test_noise_has_the_lengths_of_what_the_loader_makes(source, model):
    dataset = ClipDataset([source], model.decoder.prompt.target_ids, DataConfig())
    plan = SamplingPlan([source.durations], [1.0], 8, seed=0)
    real = dataset.__getitems__(plan.batch(0))
    seconds = [float(source.durations[draw.row]) for draw in plan.batch(0)]
    fake = synthetic_batch(seconds, [ids.tolist() for ids in real.target_ids])
    assert fake.waveforms.shape == real.waveforms.shape
    assert torch.equal(fake.num_samples, real.num_samples)
    assert fake.audio_seconds == pytest.approx(real.audio_seconds)
    assert all(map(torch.equal, fake.target_ids, real.target_ids))
    cached = noise(model, seconds, [[1]] * 8, cached=True)
    assert cached.features.shape == (sum(model.encoder.num_frames(real.num_samples)), 64)
    assert cached.features.dtype == torch.float16
    assert cached.waveforms.shape == (0, 0)


def pretend(bytes_per_clip: int, seconds_per_clip: float, monkeypatch, free: int) -> list[int]:
    """Let trials take as much; return a list of the sizes that are tried."""
    tried = []

    def attempt(trial, size, device):
        tried.append(size)
        return memory.Taken(1000 + bytes_per_clip * size, seconds_per_clip * size)

    monkeypatch.setattr(memory, "attempt", attempt)
    monkeypatch.setattr(memory, "memory_in_use", lambda device: 500)
    monkeypatch.setattr(memory, "memory_limit", lambda device: 500 + free)
    return tried


def trial_of(size: int) -> Trial:
    return Trial("training.batch_size", "the longest batch", [30.0] * size, None, None, fixed_bytes=1000)


def test_on_a_cpu_a_batch_that_would_be_killed_is_not_tried(monkeypatch):
    tried = pretend(100, 0.01, monkeypatch, free=1000 + 16 * 100 - 1)
    verdict = judge(trial_of(16), CPU)
    assert tried == [1, 1]
    assert (verdict.fits, verdict.measured) == (15, False)
    (warning,) = verdict.findings(trial_of(16), TrainingConfig()).warnings
    assert "training.batch_size=16 may not fit: the longest batch (16 clips of 30 s) needs about" in warning
    assert "training.batch_size=8 training.gradient_accumulation_steps=2 fits" in warning
    tried = pretend(100, 0.01, monkeypatch, free=1000 + 16 * 100)
    assert judge(trial_of(16), CPU) == memory.Verdict(16, 500 + 2600, 500 + 2600, True, "this process may have")
    assert tried == [1, 1, 16]


def test_on_a_cpu_a_batch_that_would_take_long_is_not_tried(monkeypatch):
    tried = pretend(100, memory.CPU_SECONDS / 15, monkeypatch, free=10**6)
    verdict = judge(trial_of(16), CPU)
    assert tried == [1, 1]
    (note,) = verdict.findings(trial_of(16), TrainingConfig()).notes
    assert note.startswith("the longest batch (16 clips of 30 s) should fit: about ")


def limit_address_space() -> None:
    import resource

    import psutil

    memory.CPU_SECONDS = 1000
    torch.set_num_threads(1)
    limit = psutil.Process().memory_info().vms + 900 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited by the kernel")
def test_memory_that_really_runs_out(run_settings, tmp_path):
    """A process with little address space: the allocator's own error, and what is suggested then runs."""
    rows = [{"audio": f"{i}.flac", "text": "one two three", "duration": 20.0} for i in range(96)]
    write_manifest(tmp_path / "long.jsonl", rows)
    for row in rows:
        (tmp_path / row["audio"]).symlink_to(tmp_path / "one.flac")
    write(tmp_path / "one.flac", 20.0)

    def train(*more: str) -> tuple[int, str]:
        typed = ["train", *run_settings, f"data.datasets=[{{path: {tmp_path}/long.jsonl}}]", "data.eval_datasets=[]"]
        return run_apart([*typed, *more], tmp_path, limit_address_space)

    status, log = train("training.batch_size=96", "training.max_steps=100")
    (error,) = errors(log)
    assert status == 2
    assert "Traceback" not in log
    found = re.search(
        r"error: training.batch_size=96 does not fit: the longest batch \(96 clips of 20 s\) needs more than this "
        r"process may have; training.batch_size=(\d+) training.gradient_accumulation_steps=(\d+) fits, with",
        error,
    )
    assert found, error
    assert 1 < int(found[1]) < 96
    typed = [f"training.batch_size={found[1]}", f"training.gradient_accumulation_steps={found[2]}"]
    status, log = train(*typed, "training.max_steps=1")
    assert status == 0, log
    status, log = train("training.batch_size=96", "training.max_steps=1", "paths.output_dir=unwarned")
    assert status == 2, "it would not have fitted"
    assert "ta train: error: the memory of the device is too small. Halve training.batch_size" in log


def limit_clips(count: int) -> None:
    """Have the second process run out of memory with more clips than these."""
    loss = SpeechLLM.loss

    def limited(self, frames, lengths, *more, **options):
        if os.environ["RANK"] == "1" and len(lengths) > count:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return loss(self, frames, lengths, *more, **options)

    SpeechLLM.loss, package.MIN_STEPS = limited, 1


def test_of_two_processes_one_that_runs_out_of_memory_ends_both_with_its_line(run_settings, tmp_path):
    """Without a collective that the other would wait in."""
    settings = ["train", *run_settings]
    statuses, log = run_together([*settings, "data.eval_datasets=[]"], tmp_path, partial(limit_clips, 5))
    assert statuses == [2, 2], log
    said = re.findall(r"ta train: error: (.*?batch\.)", log)  # two processes may write into one line
    assert len(said) == 2, log
    assert said[0] == said[1]
    assert "training.batch_size=4 training.gradient_accumulation_steps=2 fits" in said[0]

    statuses, log = run_together([*settings, "training.max_steps=2"], tmp_path, partial(limit_clips, 1000))
    assert statuses == [0, 0], log
    assert log.count("Preflight: the longest batch") == 1


# Speed


@pytest.mark.parametrize(
    ("rate", "throughput", "workers", "cores", "said"),
    [
        (100, 350, 4, 16, None),
        (100, 1000, 4, 16, "takes 1,000 seconds of audio a second and gets about 400; data.num_workers=10 would do."),
        (
            100,
            1000,
            4,
            8,
            "helps: data.num_workers=8, as many as there are cores, recordings in wav or flac at 16 kHz, ",
        ),
        (100, 1000, 8, 8, "gets about 800; what helps: recordings in wav or flac at 16 kHz, data.cache_features=true"),
        (100, 500, 8, 4, "gets about 400; what helps: recordings"),
        (100, 20, 0, 4, None),
        (
            100,
            50,
            0,
            4,
            "data.num_workers=0: the step waits for its data, 33% of the time; data.num_workers=1 would do.",
        ),
    ],
)
def test_data_that_will_be_the_bottleneck_is_told(rate, throughput, workers, cores, said):
    warnings = check_speed(rate, throughput, DataConfig(num_workers=workers), cores).warnings
    assert bool(warnings) == (said is not None)
    assert all(said in line for line in warnings)


def test_speeds_are_measured(model, source, accelerator):
    """The throughput is that of real passes; a mixture's speed is that of its parts in their shares."""
    plan = SamplingPlan([source.durations], [1.0], 4, seed=0)
    with memory.trial_mode(model):
        throughput = measure_throughput(model, plan, accelerator)
    assert throughput > 0
    assert all(weight.grad is None for weight in model.parameters())
    (sample,) = readable.read_samples(ClipDataset([source], model.decoder.prompt.target_ids, DataConfig()), seed=0)
    assert (sample.count, sample.skipped) == (8, [])
    assert sample.audio_seconds > 8 * 0.5
    assert sample.wall_seconds > 0
    fast, slow = Sample("f", 9, 4, [], 40.0, 1.0), Sample("s", 9, 8, [], 40.0, 8.0)
    assert audio_per_second([fast], [1.0]) == 40
    assert audio_per_second([fast, slow], [0.5, 0.5]) == pytest.approx((10 + 5) / (0.25 + 1))


# When


def test_a_short_run_skips_what_costs_and_false_skips_all(run_settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "attempt", lambda *arguments: pytest.fail("a trial"))
    assert main(["train", *run_settings]) == 0
    log = capsys.readouterr().err
    assert re.search(
        r"\[INFO\] Preflight: 1 checkpoint of .* fit on the disk \(.* free\); 16 of 16 sampled clips can", log
    )
    assert main(["train", *run_settings, "training.preflight=false", "training.max_steps=5"]) == 0
    assert "Preflight" not in capsys.readouterr().err
    with pytest.raises(pytest.fail.Exception, match="a trial"):
        main(["train", *run_settings, f"training.max_steps={5 + package.MIN_STEPS}"])


def test_features_from_the_cache_are_tried_as_such(run_settings, tmp_path, monkeypatch, long_enough):
    """Without the encoder, which such a run does not use either; and though it draws nothing of one source."""
    monkeypatch.chdir(tmp_path)
    typed = ["train", *run_settings, "data.cache_features=true", "data.no_speech_share=1e-4", "training.max_steps=1"]
    assert main(typed) == 0
    from tiny_audio.model.encoder import SpeechEncoder

    monkeypatch.setattr(SpeechEncoder, "forward", lambda *arguments: pytest.fail("the encoder was used"))
    assert main([*typed, "paths.output_dir=again"]) == 0


def test_lengths_are_written_shortly():
    assert describe_clips([30.0]) == "1 clip of 30 s"
    assert describe_clips([29.84, 29.81]) == "2 clips of 29.8 s"
    assert describe_clips([30.0, 28.06]) == "2 clips of 28.1 to 30 s"
