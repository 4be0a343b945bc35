"""Writes transcripts of recordings that have none, by another recognizer: more speakers to train on, for no typing.

python recipes/label.py openai/whisper-base recordings.jsonl labelled.jsonl

Each line of the manifests is a JSON object whose `audio` is a path, absolute or from the manifest's folder; all else in
it is kept. Recordings of up to 30 s. What is stopped goes on where it was, with the same command.

With --keep-words the recordings have transcripts without capitals and punctuation; their words stay, and get those of
the recognizer's text.
"""

from __future__ import annotations

import json
import logging
import re
import string
import unicodedata
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from tiny_audio.audio import AudioError, check_clip, is_silent, load_audio
from tiny_audio.config import Config
from tiny_audio.errors import UserError
from tiny_audio.evaluation.symptoms import loops
from tiny_audio.judge.pipelines import ModelRecognizer
from tiny_audio.progress import Progress

Row = dict[str, Any]

MARKS = ".,?!;:"
EDGES = string.punctuation + "\u2026\u00bf\u00a1"
PLAIN = str.maketrans(  # apostrophes; hyphens and dashes; quotation marks and brackets, which are left out
    {"\u2019": "'"} | dict.fromkeys("-\u2013\u2014", " ") | dict.fromkeys('"\u201c\u201d\u201e\u2018\u00ab\u00bb()[]*')
)
ABBREVIATIONS = {"mr", "mrs", "ms", "dr", "st"}  # their full stop ends no sentence


def main() -> None:
    """Label what the manifest names and the output does not hold yet."""
    options = parse()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        label(options)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None


def parse() -> Namespace:
    """Return what was typed."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a recognizer that transformers can run: a folder or an id of the Hub")
    parser.add_argument("recordings", type=Path, help="manifest of recordings (JSON lines)")
    parser.add_argument("output", type=Path, help="manifest to write; what is left out goes beside it")
    parser.add_argument("--language", help="of a multilingual Whisper, such as en; without: it detects it")
    parser.add_argument(
        "--without", default="[0-9]", metavar="REGEX", help="leave such texts out, unless words are kept"
    )
    parser.add_argument("--replace", action="append", default=[], metavar="OLD=NEW", help="a word by another one")
    parser.add_argument("--keep-words", action="store_true", help="of `text`: label only capitals and marks")
    parser.add_argument("--batch-size", type=int, default=8, help="default %(default)s")
    options = parser.parse_args()
    for replacement in options.replace:
        if "=" not in replacement:
            parser.error(f"--replace {replacement}: write OLD=NEW, such as Mr.=Mister")
    if options.batch_size < 1:
        parser.error("--batch-size must be at least 1")
    try:
        re.compile(options.without)
    except re.error as error:
        parser.error(f"--without {options.without}: {error}")
    return options


def label(options: Namespace) -> None:
    """Transcribe in batches; each batch is written before the next one is read.

    Raises:
        UserError: there is no such manifest or model, or a line is not an object with `audio`.
    """
    left_out = options.output.with_suffix(".left_out.jsonl")
    done = {row["audio"] for path in (options.output, left_out) if path.exists() for row in read(path)}
    rows = [row for row in read(options.recordings) if row["audio"] not in done]
    config = Config()
    recognizer = ModelRecognizer(options.model, config, options.language)
    spelled, counts = spelling(options.replace), {True: 0, False: 0}
    progress = Progress("Labelling", len(rows), "recordings")
    with options.output.open("a", encoding="utf-8") as kept, left_out.open("a", encoding="utf-8") as others:
        for batch in progress.over(batches(rows, options.batch_size), len):
            for row in transcribe(batch, recognizer, config):
                heard = spelled(row.pop("heard"))
                reason = row.pop("reason", None) or why_not(heard, None if options.keep_words else options.without)
                if options.keep_words:
                    own = str(row.get("text") or "").strip()
                    reason = reason if own else "has no words to keep"
                    heard = own if reason else punctuate(own, heard)
                row["text"] = heard
                print(json.dumps(row | ({"reason": reason} if reason else {})), file=others if reason else kept)
                counts[reason is None] += 1
            kept.flush()
            others.flush()
    progress.close()
    print(f"{options.output}: {counts[True]:,} labelled, and {counts[False]:,} left out ({left_out.name} says why)")


def read(path: Path) -> list[Row]:
    """Return the rows of a manifest, with absolute paths, and without the reasons of an earlier run.

    Raises:
        UserError: it cannot be read, or a row is a part of a recording.
    """
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if any({"start", "offset"} & row.keys() for row in rows):
            raise UserError(f"{path}: a row is a part of a recording; write each part to a file of its own")
        rows = [{key: value for key, value in row.items() if key != "reason"} for row in rows]
        return [row | {"audio": str((path.parent / row["audio"]).resolve())} for row in rows]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (AttributeError, ValueError, KeyError, TypeError):
        raise UserError(f"{path}: a line is not a JSON object with `audio`") from None


def batches(rows: list[Row], size: int) -> Iterator[list[Row]]:
    """Yield the rows in their order, `size` at a time."""
    yield from (rows[first : first + size] for first in range(0, len(rows), size))


def transcribe(batch: list[Row], recognizer: ModelRecognizer, config: Config) -> list[Row]:
    """Return the rows of a batch with what was `heard`, and those that cannot be read with a `reason`."""
    waveforms, readable, unreadable = [], [], []
    for row in batch:
        try:
            waveform = load_audio(row["audio"], max_seconds=config.data.max_audio_length)
            check_clip(len(waveform), is_silent(waveform), config.data.min_audio_length, config.data.max_audio_length)
            waveforms.append(waveform)
            readable.append(row)
        except AudioError as error:
            unreadable.append(row | {"heard": "", "reason": str(error)})
    texts = recognizer.transcribe(waveforms) if waveforms else []
    return [row | {"heard": text} for row, text in zip(readable, texts, strict=True)] + unreadable


def spelling(replacements: list[str]) -> Callable[[str], str]:
    """Return what writes NEW for each whole word OLD."""
    words = dict(replacement.split("=", 1) for replacement in replacements)
    return lambda text: " ".join(words.get(word, word) for word in text.split())


def punctuate(transcript: str, heard: str) -> str:
    """Return the words of a transcript with the capitals and punctuation of another text of the same speech.

    Words that both have are written as in the other text. Where it has as many other words in their place, only
    capitals and marks are taken from these; all other words are in lower case. A sentence begins with a capital.
    """
    heard = unicodedata.normalize("NFC", heard).translate(PLAIN)
    words = unicodedata.normalize("NFC", transcript).lower().split()
    others = [word for word in heard.split() if bare(word)]
    pairs = SequenceMatcher(a=[bare(word) for word in words], b=[bare(word) for word in others], autojunk=False)
    for _, start, end, first, last in pairs.get_opcodes():
        if end - start == last - first:
            words[start:end] = map(like, words[start:end], others[first:last])
    if not re.search(r"\bi\b", heard):  # as in other languages than English
        words = [re.sub(r"^i(?=$|['.,?!;:])", "I", word) for word in words]
    for i, word in enumerate(words):
        if i == 0 or (words[i - 1][-1] in ".?!" and bare(words[i - 1]) not in ABBREVIATIONS):
            words[i] = word[:1].upper() + word[1:]
    return " ".join(words)


def like(word: str, other: str) -> str:
    """Return a word with the capital and the mark of another one, or that one if they are the same."""
    if bare(word) == bare(other):
        return other if "'" in (word[0], word[-1]) else other.strip("'")
    mark = other[-1] if other[-1] in MARKS and bare(other) not in ABBREVIATIONS else ""
    return (word.capitalize() if bare(other)[0] != other.lstrip(EDGES)[0] else word) + mark


def bare(word: str) -> str:
    """Return a word in lower case, without the marks around it."""
    return word.lower().strip(EDGES)


def why_not(text: str, without: str | None) -> str | None:
    """Return why nobody should learn from a text, or None."""
    if not text:
        return "no text"
    if without and (found := re.search(without, text)):
        return f"has {found.group()!r}, which may be spoken in several ways"
    return "repeats itself" if loops(text.split()) else None


if __name__ == "__main__":
    main()
