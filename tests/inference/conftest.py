"""A checkpoint of the tiny models, trained for a step."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def checkpoint(trained) -> Path:
    return trained
