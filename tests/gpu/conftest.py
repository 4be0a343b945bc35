"""The device of these tests: CUDA, or another one that takes its place where the tests themselves are tried."""

from __future__ import annotations

import os

import pytest
import torch

DEVICE = os.environ.get("TINY_AUDIO_TEST_DEVICE", "cuda")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if DEVICE == "cuda" and not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="there is no CUDA device here"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device(DEVICE)


@pytest.fixture(scope="session")
def gpu_settings(run_settings: list[str], device: torch.device) -> list[str]:
    """Arguments of `ta train` for a run of seconds on the device, in the precision that `auto` gives there."""
    own = [setting for setting in run_settings if not setting.startswith("hardware.")]
    return [
        *own,
        f"hardware.device={device}",
        "hardware.num_threads=1",
        "training.max_steps=8",
        "training.eval_steps=4",
    ]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests measured, for `benchmarks/gpu.py`."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"figure: {name} = {value}")
