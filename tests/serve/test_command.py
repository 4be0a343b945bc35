"""`ta serve` as a process: what is typed wrongly, and how it ends."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from runs import start_ta
from serving import Running, form, read_answer, wav
from tiny_audio.cli import main
from tiny_audio.cli import serve as command


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_it_finish_what_was_accepted_and_refuse_the_rest(number, checkpoint, tmp_path: Path):
    process = start_ta(["serve", f"checkpoint={checkpoint}", "device=cpu", "port=0", "batch_size=1"], tmp_path)
    try:
        server = started(tmp_path / "log.txt")
        rng = np.random.default_rng(0)
        long = form(wav((0.1 * rng.standard_normal(60 * 16_000)).astype(np.float32)))
        accepted = server.begin_upload(long, len(long))
        server.wait_for("queue", 1)
        half = server.begin_upload(long[:100_000], len(long))
        server.wait_for("uploads", 1)
        process.send_signal(number)
        status, body = read_answer(half)
        assert (status, body["error"]["code"]) == (503, "shutting_down")
        status, body = read_answer(accepted)
        assert status == 200
        assert body["text"]
        with pytest.raises(ConnectionRefusedError):
            server.ask("GET", "/health")
        assert process.wait(60) == 0
    finally:
        process.kill()
    log = (tmp_path / "log.txt").read_text()
    assert "finished the accepted recordings, and stopped." in log
    assert "Traceback" not in log


def started(log: Path) -> Running:
    """Wait until a process answers, and return where: by the command that it says can be typed."""
    waiting = threading.Event()
    for _ in range(600):
        if log.is_file() and (found := re.search(r"curl (http://127\.0\.0\.1:\d+)/v1", log.read_text())):
            return Running(None, found[1])  # type: ignore[arg-type]
        waiting.wait(0.1)
    raise AssertionError(log.read_text())


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ([], "name a checkpoint: ta serve checkpoint="),
        (["checkpoint=absent.pt"], "there is no checkpoint absent.pt"),
        (["checkpoint={}", "host=0.0.0.0"], "host=0.0.0.0 can be reached from other machines"),
        (["checkpoint={}", "queue=0"], "queue must be at least 1, got 0."),
        (["checkpoint={}", "device=gpu"], "device"),
        (["checkpoint={}", "prot=1"], "prot=1"),
        (["checkpoint={}", "host=203.0.113.1", "api_key=k", "device=cpu"], "cannot be used"),
    ],
)
def test_mistakes_are_one_line(typed, said, checkpoint, capsys, monkeypatch):
    monkeypatch.delenv("TINY_AUDIO_API_KEY", raising=False)
    assert main(["serve", *(word.format(checkpoint) for word in typed)]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert said in line


def test_a_library_that_is_missing_is_named(checkpoint, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "starlette" else find(name))
    assert main(["demo", f"checkpoint={checkpoint}"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "ta demo needs starlette, which is not installed: pip install 'tiny-audio[serve]'" in line


def test_demo_opens_the_page(checkpoint, capsys, monkeypatch):
    opened = []

    class Server:
        def __init__(self, recognizer, name, settings, ready):
            self.ready = ready

        def serve_until_signaled(self):
            self.ready("http://127.0.0.1:1")

    monkeypatch.setattr("tiny_audio.serve.server.Server", Server)
    monkeypatch.setattr(command.webbrowser, "open", lambda address: opened.append(address) or True)
    assert main(["serve", f"checkpoint={checkpoint}", "device=cpu"]) == 0
    assert opened == []
    assert main(["demo", f"checkpoint={checkpoint}", "device=cpu", "api_key=k"]) == 0
    assert opened == ["http://127.0.0.1:1"]
    assert '-H "Authorization: Bearer $TINY_AUDIO_API_KEY"' in capsys.readouterr().out


def test_what_is_printed_can_be_typed(checkpoint):
    lines = command.what_to_type("m", "http://h:1", has_key=False).splitlines()
    assert lines[0].startswith("Serving m at http://h:1")
    assert json.loads(re.search(r'base_url=("[^"]+")', lines[2])[1]) == "http://h:1/v1"  # type: ignore[index]
