"""Damaged and hostile checkpoints and exported folders, thousands with `-m slow`: read or refused in one line."""

from __future__ import annotations

import copy
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_audio
from runs import run_ta
from tiny_audio.cli import main
from tiny_audio.errors import UserError

MAX_SECONDS = 60.0  # of a busy machine: a second or two by itself
GONE = object()
VALUES = [
    *(None, -1, 0, 1, 10**9, 10**18, 0.5, float("nan"), float("inf"), True, False, "", "x" * 100_000, "auto", "clip"),
    *("\x1b[31mred\x1b]0;title\x07", "${oc.env:SECRET}", "???", "../../etc/passwd", "/dev/zero", [], {}, [1], {"a": 1}),
    *(torch.zeros(3), torch.zeros(0), torch.zeros(1).expand(1000, 1000, 1000), torch.tensor([float("nan")])),
]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in nested tables and lists something could be put."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:20]) if isinstance(value, list) else ()
    for name, inner in items:
        yield (*at, name)
        yield from places(inner, (*at, name))


def change(whole: Any, rng: random.Random, values: list[Any]) -> str:
    """Take something out or put a value in its place; return what was done."""
    if not (found := list(places(whole))):
        return "nothing is left"
    at = rng.choice(found)
    for name in at[:-1]:
        whole = whole[name]
    value = GONE if rng.random() < 0.25 else rng.choice(values)
    if value is GONE:
        del whole[at[-1]]
    else:
        whole[at[-1]] = value
    return f"{at}: {'taken out' if value is GONE else repr(value)[:40]}"


def broken_checkpoint(good: dict[str, Any], path: Path, rng: random.Random) -> str:
    content = copy.deepcopy(good)
    done = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        inner: Any = content
        if rng.random() < 0.8:  # mostly what is read when it is used
            inner = rng.choice([content["models"], content["config"]["model"], content["weights"], content["state"]])
        done.append(change(inner, rng, VALUES))
    torch.save(content, path)
    return "; ".join(done)


def broken_folder(good: Path, path: Path, rng: random.Random) -> str:
    """Change a value in a JSON file, or take a file away, cut it off, or overwrite bytes of it."""
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(good, path)
    file = rng.choice(sorted(one for one in path.rglob("*") if one.is_file()))
    content, kind = file.read_bytes(), rng.random()
    if file.suffix == ".json" and kind < 0.7:
        table = json.loads(content)
        done = change(table, rng, [v for v in VALUES if not isinstance(v, torch.Tensor)])
        file.write_text(json.dumps(table))
    elif kind < 0.8:
        done = "taken away"
        file.unlink()
    elif kind < 0.9:
        done = "cut off"
        file.write_bytes(content[: rng.randrange(len(content) + 1)])
    else:
        done, spoilt = "overwritten", bytearray(content)
        for _ in range(rng.choice([1, 4, 50])):
            spoilt[rng.randrange(min(len(spoilt), rng.choice([100, 1000, len(spoilt)])))] = rng.randrange(256)
        file.write_bytes(spoilt)
    return f"{file.name} {done}"


def check_opens_or_is_refused(path: Path, done: str) -> str:
    """Open it and transcribe half a second; return what came of it."""
    noise = (0.1 * np.random.default_rng(0).standard_normal(8_000)).astype(np.float32)
    start = time.monotonic()
    try:
        tiny_audio.load_model(path).transcribe(noise, sampling_rate=16_000)
        outcome = "read"
    except UserError as error:
        told = str(error)
        assert told.isprintable(), f"{done}: {told!r}"
        assert len(told) < 2_000, f"{done}: {told!r}"
        assert "of the environment" not in told, f"{done}: {told!r}"
        outcome = "refused"
    except Exception as error:
        raise AssertionError(f"{done}: {error!r}") from error
    assert time.monotonic() - start < MAX_SECONDS, done
    return outcome


@pytest.fixture(scope="module")
def trained(run_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    ctc = ("training.ctc_warmup_steps=1", "training.ctc_loss_weight=0.3", "training.ctc_min_count=3")
    status, log = run_ta(["train", *run_settings, *ctc, "model.use_lora=true", "training.max_steps=2"], folder)
    assert status == 0, log
    return folder / "outputs/transcription/checkpoints/final.pt"


@pytest.fixture(scope="module")
def exported(trained: Path) -> Path:
    folder = trained.parent / "exported"
    assert main(["export", f"checkpoint={trained}", f"output={folder}", "clips=0"]) == 0
    return folder


COUNTS = [pytest.param(20, 0, id="some"), pytest.param(1000, 1, id="many", marks=pytest.mark.slow)]


@pytest.mark.parametrize(("count", "seed"), COUNTS)
def test_a_broken_checkpoint_is_read_or_refused(trained, tmp_path, monkeypatch, count, seed):
    monkeypatch.setenv("SECRET", "of the environment")
    good = torch.load(trained, weights_only=True)
    path = tmp_path / "final.pt"
    found = fuzz(lambda rng: broken_checkpoint(good, path, rng), path, count, seed)
    assert min(found["read"], found["refused"]) > count / 10, found


@pytest.mark.parametrize(("count", "seed"), COUNTS)
def test_a_broken_exported_folder_is_read_or_refused(exported, tmp_path, count, seed):
    path = tmp_path / "model"
    found = fuzz(lambda rng: broken_folder(exported, path, rng), path, count, seed)
    assert min(found["read"], found["refused"]) > count / 10, found


def fuzz(make: Callable[[random.Random], str], path: Path, count: int, seed: int) -> Counter[str]:
    rng = random.Random(seed)
    found = Counter(check_opens_or_is_refused(path, make(rng)) for _ in range(count))
    print(dict(found))  # `pytest -s -m slow`: the table of docs/reliability.md
    return found
