"""A benchmark, in order: device, models, the variants one after another, the data."""

from __future__ import annotations

import logging
import platform
import statistics
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..config import Config, HardwareConfig, ModelConfig
from ..data.loader import Batch
from ..model.attention import choose_attention
from ..model.decoder import load_prompt
from ..model.device import FROZEN_DTYPES
from ..model.flops import Widths, step_flops
from ..model.speech_llm import SpeechLLM
from ..training.build import start_accelerator, usable_workers
from ..training.memory import PeakMemory, release_memory
from .data import measure_data, open_data
from .measure import Timeline, matrix_rate, return_freed_memory
from .models import PUBLISHED, Sizes, build_frozen, build_model, random_batch
from .parts import measure_parts
from .report import Report
from .settings import Settings
from .variants import Ours, Plain, Usual, Variant, Windows

logger = logging.getLogger(__name__)

DATA_SECONDS = 5.0  # for each number of workers
WARM_UP_STEPS = 3  # on a GPU, or with compiled layers; otherwise the forward pass for the loss is enough


def benchmark(settings: Settings, report: Report) -> dict[str, Any]:
    """Measure, print each table as soon as it is measured, and return all figures in plain values.

    Raises:
        UserError: a device, precision or attention is not available; data cannot be read.
    """
    hardware = HardwareConfig(device=settings.device, mixed_precision=settings.precision, attention=settings.attention)
    accelerator = start_accelerator(Config(hardware=hardware))
    settings, sizes = choose_load(settings, PUBLISHED, accelerator.device)
    assert settings.batch_size is not None
    figures: dict[str, Any] = {"settings": asdict(settings)}
    corpus = None
    if settings.data is not None:  # first, so that a mistake ends the benchmark at once
        prompt = load_prompt("pocket", None, ModelConfig().prompt)
        corpus = open_data(settings.data, settings.batch_size, prompt)
    throughput = None
    if settings.step:
        figures |= measure_steps(settings, sizes, accelerator, report)
        throughput = figures["projectors"][0]["variants"]["ours"].get("audio_hours_per_hour")
    if corpus is not None:
        figures["data"] = measure_data(*corpus, settings.workers, DATA_SECONDS)
        figures["data"]["usable_workers"] = usable_workers(max(settings.workers))
        report.data(figures["data"], throughput)
    return figures


def choose_load(settings: Settings, sizes: Sizes, device: torch.device) -> tuple[Settings, Sizes]:
    """Fill in the settings that are None: the whole models on a GPU, on a CPU a size that takes minutes."""
    whole = device.type == "cuda"
    layers = (sizes.encoder_layers, sizes.decoder_layers) if whole else (4, 4)
    settings = replace(
        settings,
        encoder_layers=settings.encoder_layers or min(layers[0], sizes.encoder_layers),
        decoder_layers=settings.decoder_layers or min(layers[1], sizes.decoder_layers),
        batch_size=settings.batch_size or (16 if whole else 8),
        steps=settings.steps or (20 if whole else 2),
    )
    assert settings.encoder_layers is not None
    assert settings.decoder_layers is not None
    return settings, replace(sizes, encoder_layers=settings.encoder_layers, decoder_layers=settings.decoder_layers)


def measure_steps(settings: Settings, sizes: Sizes, accelerator: Accelerator, report: Report) -> dict[str, Any]:
    """Measure the step with each projector."""
    device, dtype = accelerator.device, FROZEN_DTYPES[accelerator.mixed_precision]
    if device.type == "cpu":
        return_freed_memory()
    logger.info("Making random models of the published widths...")
    encoder, decoder = build_frozen(sizes, device, dtype)
    assert settings.batch_size is not None
    batch = random_batch(settings.batch_size, settings.seconds, decoder.prompt, sizes.vocabulary)
    if device.type == "cuda":
        batch = batch.pin_memory()  # as the loader does
    some = random_batch(1, 2.0, decoder.prompt, sizes.vocabulary)
    model = build_model(settings.projectors[0], encoder, decoder, some)
    attention = choose_attention(model, settings.attention)
    if settings.compile:
        model.compile_layers()
    machine = describe_machine(accelerator, attention)
    machine["weight_bytes"] = sum(p.numel() * p.element_size() for p in model.parameters())
    report.machine(machine, settings, sizes, PUBLISHED, batch.audio_seconds)
    measured = []
    for kind in settings.projectors:
        model = build_model(kind, encoder, decoder, some)
        measured.append(measure_projector(kind, model, batch, settings, accelerator))
        report.projector(measured[-1], settings)
    return {"machine": machine, "sizes": asdict(sizes), "audio_seconds": batch.audio_seconds, "projectors": measured}


def describe_machine(accelerator: Accelerator, attention: str) -> dict[str, Any]:
    """Return the facts about the machine that the figures depend on."""
    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {
        "device": device.type,
        "name": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision,
        "attention": attention,
    }


def cpu_name() -> str:
    """Return the name of the processor."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def measure_projector(
    kind: str, model: SpeechLLM, batch: Batch, settings: Settings, accelerator: Accelerator
) -> dict[str, Any]:
    """Measure all variants with one projector, each from the same weights, and the parts of our own step.

    The matrix rate is measured before and after, and the higher one counts: on a busy machine either may be too low.
    """
    rate = matrix_rate(accelerator.device, model.encoder.dtype)
    start = {name: weight.clone() for name, weight in model.projector.state_dict().items()}
    variants: dict[str, dict[str, Any]] = {}
    for chosen in (Usual, Plain, Windows, Ours) if settings.baseline else (Windows, Ours):
        logger.info("Measuring the step, %s (%s)...", chosen.title, kind)
        model.projector.load_state_dict(start)
        try:
            variants[chosen.title] = measure_variant(chosen, model, batch, settings, accelerator)
        except torch.OutOfMemoryError:
            variants[chosen.title] = {"error": "out of memory"}
        accelerator.free_memory()
        release_memory(accelerator.device)
    rate = max(rate, matrix_rate(accelerator.device, model.encoder.dtype))
    for found in variants.values():
        if "error" not in found:
            found |= derive(found, settings, batch.audio_seconds, rate)
            if "seconds" in (usual := variants.get("usual", {})):
                found["times_as_fast_as_usual"] = usual["seconds"] / found["seconds"]
    parts = variants["ours"].pop("parts", {})
    parameters = sum(p.numel() for p in model.projector.parameters())
    return {
        "projector": kind,
        "parameters": parameters,
        "matrix_flops_per_second": rate,
        "variants": variants,
        "parts": parts,
    }


def measure_variant(
    chosen: type[Variant], model: SpeechLLM, batch: Batch, settings: Settings, accelerator: Accelerator
) -> dict[str, Any]:
    """Measure the loss, the seconds of whole steps, the memory, and the parts of our own step."""
    assert settings.steps is not None
    device = accelerator.device
    with PeakMemory(device) as peak:
        variant = chosen(model, batch, accelerator)
        with variant.installed():
            loss = variant.loss()
            for _ in range(WARM_UP_STEPS if device.type == "cuda" or settings.compile else 0):
                variant.step()
            timeline = Timeline(device)
            timeline.mark("start")
            for _ in range(settings.steps):
                variant.step()
                timeline.mark("step")
            seconds = [seconds for _, seconds in timeline.intervals()]
    flops = step_flops(Widths.of(model), variant.load, model.projector)
    found = {
        "loss": loss,
        "seconds": statistics.median_low(seconds),  # the faster one of two steps: the first may be cold
        "seconds_of_each_step": seconds,
        "peak_bytes": peak.bytes,
        "flops": sum(flops.values()),
    }
    if isinstance(variant, Ours) and not isinstance(variant, Windows):
        each = measure_parts(variant, settings.steps)
        found["parts"] = {part: {"seconds": each[part], "flops": flops.get(part, 0.0)} for part in each}
    return found


def derive(found: dict[str, Any], settings: Settings, audio_seconds: float, rate: float) -> dict[str, float]:
    """Return the figures that follow from a step's seconds and operations."""
    hours = found["seconds"] * settings.run_steps / 3600
    cost = {} if settings.price is None else {"run_usd": hours * settings.price}
    return {
        "audio_hours_per_hour": audio_seconds / found["seconds"],
        "utilization": found["flops"] / found["seconds"] / rate,
        "run_hours": hours,
        **cost,
    }
