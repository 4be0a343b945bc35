"""The page, in a real browser with a microphone that plays a file."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from clips import tone
from serving import Gated, Running, serving, wav
from tiny_audio.formats import to_text
from tiny_audio.serve.app import PAGE

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
SECONDS = 2.0


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    spoken = tmp_path_factory.mktemp("microphone") / "spoken.wav"
    soundfile.write(spoken, tone(SECONDS, 48_000), 48_000, subtype="PCM_16")
    flags = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    flags += [f"--use-file-for-fake-audio-capture={spoken}", "--autoplay-policy=no-user-gesture-required"]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser) -> Iterator[Callable[..., Any]]:
    """Open the page of a server; fails where one of its scripts does, or where it asks for what is not the server's."""
    wrong: list[str] = []
    contexts = []

    def visit(server: Running, **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if "Content Security" in message.text else None)
        page.on("request", lambda request: wrong.append(request.url) if elsewhere(request.url, server) else None)
        page.goto(server.address)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []


def elsewhere(url: str, server: Running) -> bool:
    return not url.startswith((server.address, f"blob:{server.address}"))


def choose(page: Any, content: bytes, name: str = "my talk.wav") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "audio/wav", "buffer": content})


def until(page: Any, condition: str) -> None:
    """Wait until an expression is true; playwright's own way evaluates strings within the page, which forbids that."""
    for _ in range(1_000):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"{condition}: {page.inner_text('main')}")


def finished(page: Any) -> str:
    until(page, "document.getElementById('status').textContent === 'Done'")
    return page.inner_text("#transcript").strip()


def downloaded(page: Any, form: str) -> tuple[str, str]:
    with page.expect_download() as found:
        page.click(f"[data-form={form}]")
    return found.value.suggested_filename, Path(found.value.path()).read_text()


def test_a_file_is_written_down_played_and_downloaded(server, recognizer, noise, visit):
    expected = recognizer.transcribe(wav(noise), word_timestamps=True)
    page = visit(server)
    choose(page, wav(noise))
    assert finished(page).split() == expected.text.split()
    words = page.locator("#transcript .word")
    assert words.count() == len(expected.words)
    least = sorted(round(word.confidence, 3) for word in expected.words)
    doubtful = [share for share in least if share < 0.5 and share <= least[math.ceil(0.2 * len(least)) - 1]]
    assert page.locator("#transcript .doubtful").count() == len(doubtful) > 0
    assert page.is_visible("#legend")
    assert downloaded(page, "text") == ("my talk.txt", to_text(expected, "text"))
    assert downloaded(page, "srt") == ("my talk.srt", to_text(expected, "srt"))
    assert downloaded(page, "vtt") == ("my talk.vtt", to_text(expected, "vtt"))
    page.click("#play")
    page.wait_for_selector("#transcript .word.lit")
    assert page.inner_text("#play") == "Pause"
    last = len(expected.words) - 1
    words.nth(last).click()
    assert page.evaluate("document.getElementById('audio').currentTime") >= expected.words[last].start - 0.1


def test_words_come_before_the_end(recognizer, noise, visit):
    gated = Gated(recognizer, is_open=False)
    with serving(gated, batch_size=1) as server:
        page = visit(server)
        choose(page, wav(noise))
        gated.let(1)
        page.wait_for_selector("#transcript .word")
        assert page.inner_text("#status") == "Writing"
        assert page.is_disabled("#copy")
        gated.let()
        finished(page)
        assert page.is_enabled("#copy")


def test_what_the_microphone_hears_is_written_down(server, visit):
    page = visit(server)
    page.click("#record")
    page.wait_for_selector("#record.recording")
    until(page, "document.getElementById('time').textContent.startsWith('0:01')")
    page.click("#record")
    assert finished(page)
    assert server.metric('requests_total{status="200"}')
    assert downloaded(page, "text")[0] == "recording.txt"


def test_it_works_by_keyboard(server, noise, visit):
    page = visit(server, permissions=["clipboard-read", "clipboard-write"])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "record"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    choose(page, wav(noise))
    text = finished(page)
    order = []
    for _ in range(9):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.className.split(' ')[0]"))
    assert order[:4] == ["choose", "waveform", "play", "word"]
    assert "copy" in order
    page.focus("#waveform")
    page.keyboard.press("ArrowRight")
    until(page, "document.getElementById('waveform').getAttribute('aria-valuenow') === '5.0'")
    page.locator("#transcript .word").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent") == text.split()[1]
    page.keyboard.press("Enter")
    until(page, "!document.getElementById('audio').paused")
    page.focus("#copy")
    page.keyboard.press("Enter")
    until(page, "document.getElementById('status').textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()").split() == text.split()


def test_errors_are_told_and_the_next_recording_is_taken(server, visit, noise):
    page = visit(server)
    choose(page, b"nothing of a recording")
    page.wait_for_selector("#error:not([hidden])")
    assert "not a recording that can be decoded" in page.inner_text("#error")
    assert page.get_attribute("#error", "role") == "alert"
    choose(page, wav(noise))
    assert finished(page)
    assert not page.is_visible("#error")


def test_text_is_never_html(recognizer, noise, visit, monkeypatch):
    written = recognizer.transcribe_pieces

    def evil(*args, **options):
        from dataclasses import replace

        return [
            [replace(one, text="<img src=x> <b>", words=None) for one in some] for some in written(*args, **options)
        ]

    gated = Gated(recognizer)
    monkeypatch.setattr(gated, "transcribe_pieces", evil)
    with serving(gated) as server:
        page = visit(server)
        choose(page, wav(noise), "<b>.wav")
        assert finished(page).startswith("<img src=x> <b>")
        assert page.locator("#transcript img, #transcript b").count() == 0
        page.click("#play")
        page.wait_for_selector("#transcript .word.lit")  # segments, where words are not known


def test_a_key_is_asked_for(recognizer, visit, noise):
    with serving(recognizer, api_key="open sesame") as server:
        page = visit(server)
        choose(page, wav(noise))
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key", "open sesame")
        page.keyboard.press("Enter")
        assert finished(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read_by_day_and_by_night(scheme, server, noise, visit):
    page = visit(server, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    choose(page, wav(np.tile(noise, 2)))
    finished(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("Math.min(...[...document.querySelectorAll('button')].filter((b) => b.offsetHeight)"
                         ".map((b) => b.offsetHeight))") >= 44  # fmt: skip
    for name in ("body", "#copy", "#record", "footer"):
        assert contrast(*page.evaluate(COLORS, name)) >= 4.5, name


COLORS = """(name) => {
  const colors = [];
  const element = document.querySelector(name);
  colors.push(getComputedStyle(element).color);
  for (let at = element; at; at = at.parentElement) {
    const behind = getComputedStyle(at).backgroundColor;
    if (!behind.endsWith(' 0)')) { colors.push(behind); break; }
  }
  return colors;
}"""


def contrast(one: str, other: str) -> float:
    """Of two colors, as WCAG 2 defines it."""

    def luminance(color: str) -> float:
        shares = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_the_page_is_files_without_anything_from_elsewhere(server):
    status, headers, body = server.ask("GET", "/")
    assert status == 200
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert headers["x-content-type-options"] == "nosniff"
    assert b"<style" not in body
    assert b"<script>" not in body
    for file in PAGE.iterdir():
        assert server.ask("GET", f"/{file.name}")[0] == 200
        assert not re.search(r"https?://(?!www\.w3\.org)|innerHTML|eval\(", file.read_text()), file.name
    assert server.ask("GET", "/../app.py")[0] == 404
    assert server.ask("GET", "/%2e%2e/app.py")[0] == 404
