"""Uploads by the dozen (2,000 with `-m slow`) that are noise, or broken in the ways that recordings and forms are."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from clips import tone
from serving import FORM, PATH, form
from test_fuzz_recordings import KINDS, broken, recording

SMALL, LARGE = 64, 2_000
AT_ONCE = 8
CODES = {"audio_decode_error", "audio_non_finite", "audio_too_short", "audio_too_long", "invalid_form", "invalid_value"}
CODES |= {"unknown_parameter"}


def broken_forms(rng: np.random.Generator) -> list[bytes]:
    """Forms that are damaged themselves, around a good recording."""
    whole = form(recording("flac", tone(0.5), 16_000), response_format="verbose_json")
    damaged = np.frombuffer(whole, np.uint8).copy()
    damaged[rng.integers(0, 200, 3)] = rng.integers(0, 256, 3)  # the fields stand first
    return [damaged.tobytes(), whole[: int(rng.integers(1, len(whole)))], rng.bytes(500), whole + rng.bytes(100)]


def uploads(count: int) -> list[bytes]:
    """Bodies of `count` requests, of every format and every way of breaking, in an order that mixes them."""
    made: list[bytes] = []
    round_ = 0
    while len(made) < count:
        for number, kind in enumerate(KINDS):
            rng, rate = np.random.default_rng([round_, number]), 48_000 if kind in ("webm", "ac3") else 16_000
            whole, other = (recording(kind, tone(seconds, rate), rate) for seconds in (0.6, 0.3))
            made += [form(data, "secret") for data in broken(whole, other, rng).values()] + broken_forms(rng)
        round_ += 1
    np.random.default_rng(0).shuffle(made)  # type: ignore[arg-type]
    return made[:count]


def send(server, bodies: list[bytes]) -> Counter[str]:
    """Send all, some at a time; judge every answer, and count them."""

    def judge(body: bytes) -> str:
        status, _, answered = server.ask("POST", PATH, body, FORM)
        assert b"Traceback" not in answered
        assert b"secret" not in answered
        if status == 200:
            assert "text" in json.loads(answered)
            return "transcribed"
        error = json.loads(answered)["error"]
        assert (status, error["code"] in CODES) == (400, True), (status, error)
        return error["code"]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        counts = Counter(pool.map(judge, bodies))
    assert server.metric("queue") == 0
    assert server.post(recording("flac", tone(0.5), 16_000))[0] == 200
    return counts


def test_broken_uploads_are_answered(server, caplog):
    counts = send(server, uploads(SMALL))
    assert sum(counts.values()) == SMALL
    assert {"transcribed", "audio_decode_error", "invalid_form"} <= counts.keys()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.slow
def test_thousands_of_broken_uploads_are_answered(server, caplog):
    counts = send(server, uploads(LARGE))
    print(dict(counts))
    assert sum(counts.values()) == LARGE
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
