"""The page: one file, worst first, with the sound of what it shows."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tiny_audio.audio import AudioError
from tiny_audio.evaluation.score import Result, Transcript, note_symptoms
from tiny_audio.evaluation.scoring import OURS, WHISPER
from tiny_audio.judge import page
from tiny_audio.judge.page import align_words, build_page, to_mp3, worst_first
from tiny_audio.judge.predictions import to_result

SAID = ["one two three", "four five", "six </script><b>seven</b>", "eight"]


def result(name: str, written: list[str | None]) -> Result:
    rows = [
        Transcript(
            "dev",
            f"{i}.wav",
            said,
            hypothesis,
            () if hypothesis is not None else ("missing",),
            2.0 + 4 * i,
            "ab"[i % 2],
        )
        for i, (said, hypothesis) in enumerate(zip(SAID, written, strict=True))
    ]
    return to_result(note_symptoms(rows), Path(name), name, (WHISPER, OURS))


FIRST = result("<first>", ["one two three", "four", "six seven", None])
SECOND = result("second", ["one too", "four five", "six seven", "eight"])


def data_of(html: str) -> dict:
    found = re.search(r"<script id='data' type='application/json'>(.*?)</script>", html, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def clips_of(html: str) -> list[dict]:
    """In the order of the set."""
    return sorted(data_of(html)["clips"], key=lambda clip: clip["number"])


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.found += [value for key, value in attrs if key in ("src", "href", "data", "action")]


def test_the_page_needs_no_other_file_and_what_was_said_cannot_break_it():
    html = build_page([FIRST], [FIRST])
    links = Links()
    links.feed(html)
    assert links.found == []
    assert "http" not in html.replace("http-equiv", "")
    assert links.tags.count("script") == 2
    assert "<first>" not in html
    assert clips_of(html)[2]["said"] == SAID[2]


def test_each_clip_has_its_alignment_and_what_ails_it():
    first, second = clips_of(build_page([FIRST, SECOND], [FIRST, SECOND], "one line"))[:2]
    assert first["systems"][1]["steps"] == align_words(SAID[0], "one too", WHISPER)
    assert (second["speaker"], second["seconds"]) == ("b", 6.0)
    unread = clips_of(build_page([FIRST], [FIRST]))[3]["systems"][0]
    assert (unread["read"], unread["notes"], unread["errors"]) == (False, ["missing"], 1)


def test_alignments_tell_what_was_said_and_what_was_written():
    assert align_words("a b c d", "a x c d e", OURS) == [["=", "a"], ["s", "b", "x"], ["=", "c d"], ["i", "e"]]
    assert align_words("It's 20", "it is twenty", WHISPER) == [["=", "it is 20"]]
    assert align_words("", "", OURS) == []


def test_the_worst_come_first_and_of_two_those_on_which_they_differ(monkeypatch):
    clips = data_of(build_page([FIRST], [FIRST]))["clips"]
    assert [clip["systems"][0]["errors"] for clip in clips] == [1, 1, 0, 0]
    both = data_of(build_page([FIRST, SECOND], [FIRST, SECOND]))["clips"]
    gaps = [abs(clip["systems"][0]["errors"] - clip["systems"][1]["errors"]) for clip in worst_first(both)]
    assert gaps == sorted(gaps, reverse=True)
    monkeypatch.setattr(page, "CLIPS", 2)
    html = build_page([FIRST], [FIRST])
    assert [clip["systems"][0]["errors"] for clip in data_of(html)["clips"]] == [1, 1]
    assert "dev: 4 clips; the 2 of them in which there is most to see are listed below" in html


def test_the_sound_is_that_of_the_clip_and_the_worst_have_it(monkeypatch):
    seconds = np.arange(16_000, dtype=np.float32) / 16_000
    asked = []

    def read(number: int) -> np.ndarray:
        asked.append(number)
        if number == 3:
            raise AudioError("missing", "is gone")
        return np.sin(2 * np.pi * 200 * (number + 1) * seconds).astype(np.float32) * 0.5

    sounds = data_of(build_page([FIRST], [FIRST], read=read))["audio"]
    assert set(sounds) == {"0", "1", "2"}
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(sounds["1"])))
    assert rate == 16_000
    assert np.abs(np.fft.rfft(heard[4000:12_000])).argmax() * 2 == pytest.approx(400, abs=4)
    monkeypatch.setattr(page, "AUDIO_SECONDS", 1.5)
    assert len(data_of(build_page([FIRST], [FIRST], read=read))["audio"]) == 1


def test_sound_above_full_scale_is_not_clipped():
    loud = np.tile(np.float32([2.0, -2.0, 1.0, -1.0]).repeat(40), 100)
    heard, _ = soundfile.read(io.BytesIO(to_mp3(loud)))
    assert 0.3 < np.median(np.abs(heard)) < 0.95


def test_figures_stand_with_the_rule_that_they_are_counted_by():
    html = build_page([FIRST, SECOND], [FIRST, SECOND], "a line")
    for text in ("WER (whisper)", "WER (ours)", "By length", "By speaker", "a line", "Scored by whisper"):
        assert text in html
