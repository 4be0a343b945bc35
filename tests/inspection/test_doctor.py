"""`ta doctor`: what a machine has, and what fits it."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from tiny_audio.benchmark.models import PUBLISHED as SIZES
from tiny_audio.cli import main
from tiny_audio.cli.compose import compose, register, to_overrides
from tiny_audio.cli.doctor import experiments
from tiny_audio.config import Config
from tiny_audio.inspection import machine as looked
from tiny_audio.inspection.machine import PUBLISHED, Machine, judge, look_at_machine
from widths import widths_of

TOKEN = "hf_this_must_never_be_shown"
GB = 10**9


@pytest.fixture
def offline(monkeypatch, tmp_path) -> None:
    """No network, a token, and a folder without anything in it."""

    def refuse(*args, **options):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(looked, "get_token", lambda: TOKEN)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def this() -> Machine:
    return look_at_machine(Path("outputs"), Path("cache"))


def config(name: str) -> Config:
    register()
    return compose(to_overrides([f"experiment={name}"]))[0]


def test_it_tells_what_there_is_without_the_network(offline, capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert f"torch {torch.__version__}" in text
    assert f"{psutil.virtual_memory().total / GB:.3g} GB" in text
    assert "Hub token" in text
    assert "yes" in text
    assert TOKEN not in text
    for name in experiments():
        assert f"\n  {name} " in text
    assert text.splitlines()[-1].startswith("Type first:  ta train experiment=")


def test_json_has_the_same(offline, capsys):
    assert main(["doctor", "--json"]) == 0
    text = capsys.readouterr().out
    found = json.loads(text)
    assert found["machine"]["has_token"] is True
    assert TOKEN not in text
    assert {fit["experiment"] for fit in found["experiments"]} == set(experiments())
    [quickstart] = [fit for fit in found["experiments"] if fit["experiment"] == "quickstart"]
    assert quickstart["fits"] is True
    assert quickstart["download_bytes"] == 0


def test_what_fits_depends_on_the_device_and_the_disk(this):
    gpu = replace(this, device="cuda", memory_bytes=80 * GB, precision="bf16", disks={this.cache: 100 * GB}, models={})
    fit = judge("transcription", config("transcription"), gpu)
    assert (fit.fits, fit.verdict) == (True, "fits")
    assert fit.needed_bytes == pytest.approx(15.4 * 2**30, rel=0.15), "docs/performance.md: 14.9 GiB and CUDA's own"
    assert fit.download_bytes == sum(PUBLISHED[name].download_bytes for name in fit.models)
    small = judge("transcription", config("transcription"), replace(gpu, memory_bytes=8 * GB))
    assert small.fits is False
    assert "training.gradient_accumulation_steps=" in small.verdict
    tiny = judge("transcription", config("transcription"), replace(gpu, memory_bytes=3 * GB))
    assert tiny.verdict == "does not fit into memory"
    full = judge("transcription", config("transcription"), replace(gpu, disks={this.cache: GB}))
    assert "disk" in full.verdict
    there = judge("transcription", config("transcription"), replace(gpu, models=dict.fromkeys(fit.models, GB)))
    assert there.download_bytes == 0
    cpu = judge("transcription", config("transcription"), replace(gpu, device="cpu"))
    assert "needs a GPU" in cpu.verdict


def test_models_that_are_not_known_are_not_judged(this):
    own = config("transcription")
    fit = judge("own", replace(own, model=replace(own.model, decoder="somebody/else")), this)
    assert fit.needed_bytes is None
    assert "not known before" in fit.verdict


def test_every_shipped_experiment_uses_known_models():
    for name in experiments():
        model = config(name).model
        assert {model.encoder, model.decoder} <= {"pocket", *PUBLISHED}, name


def test_the_published_sizes_are_those_of_the_configurations():
    widths, decoder = widths_of(SIZES), PUBLISHED["Qwen/Qwen3-0.6B"]
    assert (decoder.width, decoder.layers) == (SIZES.decoder_dim, SIZES.decoder_layers)
    assert decoder.weights == pytest.approx(widths.decoder_linear + widths.vocabulary * widths.decoder_dim, rel=1e-3)
    encoder = PUBLISHED["zai-org/GLM-ASR-Nano-2512"]
    assert encoder.weights == pytest.approx(widths.encoder_linear, rel=0.02)


def test_models_in_the_cache_are_listed(tmp_path, monkeypatch):
    from huggingface_hub import scan_cache_dir

    blob = tmp_path / "models--some--model/blobs/abc"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(bytes(1_000))
    snapshot = tmp_path / "models--some--model/snapshots/0123"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to(blob)
    (tmp_path / "models--some--model/refs").mkdir()
    (tmp_path / "models--some--model/refs/main").write_text("0123")
    (tmp_path / "datasets--some--data/blobs").mkdir(parents=True)
    (tmp_path / "datasets--some--data/snapshots").mkdir()
    monkeypatch.setattr(looked, "scan_cache_dir", lambda: scan_cache_dir(tmp_path))
    assert looked.cached_models() == {"some/model": 1_000}


def test_an_option_that_is_not_there(capsys):
    assert main(["doctor", "--jsn"]) == 2
    assert "--jsn" in capsys.readouterr().err
