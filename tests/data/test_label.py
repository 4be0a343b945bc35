"""recipes/label.py: transcripts by another recognizer, what is left out, and going on after a stop."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

import asr_models
from clips import read_lines, write, write_manifest
from docs_folder import ROOT
from tiny_audio.judge.pipelines import ModelRecognizer

LABEL = str(ROOT / "recipes/label.py")


@pytest.fixture
def recordings(tmp_path):
    """Five recordings, the last of which is missing, in a manifest of relative paths."""
    rows = [{"audio": f"{i}.wav", "text": None, "speaker": str(i)} for i in range(5)]
    for row in rows[:4]:
        write(tmp_path / row["audio"], 1.0)
    write_manifest(tmp_path / "recordings.jsonl", rows)
    return tmp_path


@pytest.fixture
def heard(monkeypatch):
    """Texts that a recognizer writes, one a recording; an exception in their place is raised."""
    texts = []

    def transcribe(self, waveforms):
        for text in texts[: len(waveforms)]:
            if isinstance(text, BaseException):
                texts.remove(text)
                raise text
        return [texts.pop(0) for _ in waveforms]

    monkeypatch.setattr(ModelRecognizer, "__init__", lambda self, name, config, language: None)
    monkeypatch.setattr(ModelRecognizer, "transcribe", transcribe)
    return texts


def run(monkeypatch, folder: Path, *options: str, model: str = "whisper") -> None:
    monkeypatch.setattr(sys, "argv", [LABEL, model, f"{folder}/recordings.jsonl", f"{folder}/labelled.jsonl", *options])
    runpy.run_path(LABEL, run_name="__main__")


def test_what_nobody_should_learn_from_is_left_out_with_its_reason(recordings, heard, monkeypatch):
    heard += ["Mr. Lind came", "Chapter 9", "", "so it was so it was so it was so it was so it was so it was so it was"]
    run(monkeypatch, recordings, "--replace", "Mr.=Mister")
    (kept,) = read_lines(recordings / "labelled.jsonl")
    assert kept == {"audio": str(recordings / "0.wav"), "text": "Mister Lind came", "speaker": "0"}
    reasons = {Path(row["audio"]).name: row["reason"] for row in read_lines(recordings / "labelled.left_out.jsonl")}
    assert reasons.pop("4.wav")
    assert reasons == {
        "1.wav": "has '9', which may be spoken in several ways",
        "2.wav": "no text",
        "3.wav": "repeats itself",
    }


def test_what_was_left_out_can_be_tried_again(recordings, heard, monkeypatch):
    rows = [{"audio": "0.wav", "reason": "no text"}, {"audio": "1.wav", "reason": "repeats itself"}]
    write_manifest(recordings / "recordings.jsonl", rows)
    heard += ["one", ""]
    run(monkeypatch, recordings)
    assert read_lines(recordings / "labelled.jsonl") == [{"audio": str(recordings / "0.wav"), "text": "one"}]
    assert [row["reason"] for row in read_lines(recordings / "labelled.left_out.jsonl")] == ["no text"]


def test_what_was_stopped_goes_on_where_it_was(recordings, heard, monkeypatch):
    heard += ["one", "two", KeyboardInterrupt(), "three", "four"]
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, recordings, "--batch-size", "2")
    run(monkeypatch, recordings, "--batch-size", "2")
    assert [row["text"] for row in read_lines(recordings / "labelled.jsonl")] == ["one", "two", "three", "four"]
    assert len(read_lines(recordings / "labelled.left_out.jsonl")) == 1
    assert not heard


@pytest.mark.parametrize(
    ("transcript", "heard_text", "expected"),
    [
        ("IT IS LATE I'M GOING", "It's late. I'm going!", "It is late. I'm going!"),
        ("MISTER LIND CAME AND I WENT", "Mr. Lind came, and I went.", "Mister Lind came, and I went."),
        ("THEN I SAW MAINHALL", "Then, I saw Maynehall.", "Then, I saw Mainhall."),
        ("A WELL KNOWN MAN OF NINE", "a well-known man of 9.", "A well known man of nine."),
        ("THE SEA ROSE", "(music)", "The sea rose"),
        ("HE SAID GO", 'He said: "Go!"', "He said: Go!"),
        ("HE SAID GO", "He said, \u2018Go!\u2019", "He said, Go!"),
        ("WHO IS IT GO IT IS LATE", "Who is it? Go. It's late.", "Who is it? Go. It is late."),
        ("ADD 35 NOW", "Add 3.5 now.", "Add 35 now."),
        ("jag bor i stockholm", "Jag bor i Stockholm.", "Jag bor i Stockholm."),
        ("\u0915\u0940", "\u0915\u093f", "\u0915\u0940"),
    ],
)
def test_words_are_kept_and_get_capitals_and_punctuation(
    recordings, heard, monkeypatch, transcript, heard_text, expected
):
    rows = [{"audio": "0.wav", "text": transcript}, {"audio": "1.wav", "text": None}]
    write_manifest(recordings / "recordings.jsonl", rows)
    heard += [heard_text, "Who?"]
    run(monkeypatch, recordings, "--keep-words")
    assert [row["text"] for row in read_lines(recordings / "labelled.jsonl")] == [expected]
    left_out = read_lines(recordings / "labelled.left_out.jsonl")
    assert [(row["text"], row["reason"]) for row in left_out] == [("", "has no words to keep")]


def test_a_recognizer_of_transformers_writes_the_labels(recordings, monkeypatch):
    model = asr_models.save_wav2vec2(recordings / "model")
    run(monkeypatch, recordings, "--without", "0", model=str(model))
    found = [path for name in ("labelled", "labelled.left_out") for path in read_lines(recordings / f"{name}.jsonl")]
    assert len(found) == 5


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        (None, [], "No such file"),
        ("{}\n", [], "a line is not a JSON object with `audio`"),
        ("[1]\n", [], "a line is not a JSON object with `audio`"),
        ("", ["--batch-size", "0"], "--batch-size must be at least 1"),
        ('{"audio": "0.wav", "start": 1}\n', [], "a row is a part of a recording"),
        ("", ["--replace", "Mr."], "write OLD=NEW"),
        ("", ["--without", "["], "--without ["),
    ],
)
def test_bad_input_ends_in_one_line(recordings, heard, monkeypatch, capsys, content, options, said):
    manifest = recordings / "recordings.jsonl"
    manifest.unlink() if content is None else manifest.write_text(content)
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, recordings, *options)
    assert said in f"{stopped.value} {capsys.readouterr().err}"
