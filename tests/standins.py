"""Small repositories with the columns, feature types and quirks of the known corpora, as the Hub holds them.

Written from public documentation. Each row comes with what is to be made of it: the transcript that is taught, or None
where the row has to be left out.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import soundfile

from clips import tone

ROWS_A_GROUP = 4  # some hundred in the real ones


@dataclass(frozen=True)
class Standin:
    """A corpus.

    Attributes:
        entry: as the guide writes it.
        repository, files: where its rows lie, shared out evenly.
        features: of a row.
        rate, format: of its recordings.
        quirks: (as the corpus has it, as it is taught).
    """

    entry: dict[str, Any]
    repository: str
    files: list[str]
    features: dict[str, Any]
    text: str
    quirks: list[tuple[str | None, str | None]]
    rate: int = 16_000
    format: str = "FLAC"
    audio: str = "audio"
    evaluation: dict[str, str] = field(default_factory=dict)  # split: file


def text(*names: str) -> dict[str, Any]:
    return {name: datasets.Value("string") for name in names}


STANDINS = {
    "librispeech": Standin(
        {"name": "librispeech", "split": "train-clean-360"},
        "openslr/librispeech_asr",
        ["clean/train.360/0000.parquet", "clean/train.360/0001.parquet"],
        {
            **text("file"),
            "audio": datasets.Audio(16_000),
            **text("text"),
            "speaker_id": datasets.Value("int64"),
            "chapter_id": datasets.Value("int64"),
            **text("id"),
        },
        "text",
        [
            ("CHAPTER ONE MISSUS RACHEL LYNDE IS SURPRISED", "chapter one missus rachel lynde is surprised"),
            ("THAT'S WHAT I'D DO", "that's what i'd do"),
            ("", None),
        ],
        evaluation={"dev-clean": "clean/validation/0000.parquet"},
    ),
    "common_voice": Standin(
        {"name": "common_voice", "language": "en", "split": "train"},
        "fixie-ai/common_voice_17_0",
        ["en/train-00000-of-00002.parquet", "en/train-00001-of-00002.parquet"],
        {
            **text("client_id", "path"),
            "audio": datasets.Audio(48_000),
            **text("sentence"),
            "up_votes": datasets.Value("int64"),
            "down_votes": datasets.Value("int64"),
            **text("age", "gender", "accent", "locale", "segment", "variant"),
        },
        "sentence",
        [
            ('"The boy said so, didn\u2019t he?"', "the boy said so didn't he"),
            ("It cost 1,000 dollars \u2014 no more.", "it cost 1000 dollars no more"),
            ("Version 3.5 of \u201cthe tool\u201d", "version 3.5 of the tool"),
            ("...", None),
        ],
        rate=48_000,
        format="MP3",
        evaluation={"validation": "en/validation-00000-of-00001.parquet"},
    ),
    "gigaspeech": Standin(
        {"name": "gigaspeech", "subset": "L", "split": "train"},
        "speechcolab/gigaspeech",
        ["l/train-00000-of-00002.parquet", "l/train-00001-of-00002.parquet"],
        {
            **text("segment_id", "speaker", "text"),
            "audio": datasets.Audio(16_000),
            "begin_time": datasets.Value("float32"),
            "end_time": datasets.Value("float32"),
            **text("audio_id", "title", "url"),
            "source": datasets.ClassLabel(names=["audiobook", "podcast", "youtube"]),
            "category": datasets.ClassLabel(names=["People and Blogs", "Business"]),
            **text("original_full_path"),
        },
        "text",
        [
            ("AS THEY'RE LEAVING <COMMA> CAN KASH COME <QUESTIONMARK>", "as they're leaving can kash come"),
            ("YES <EXCLAMATIONPOINT> IT IS SO <PERIOD>", "yes it is so"),
            ("<SIL>", None),
            ("<MUSIC>", None),
            ("<NOISE>", None),
            ("<OTHER>", None),
        ],
        format="OGG",
    ),
    "tedlium": Standin(
        {"name": "tedlium", "release": 3, "split": "train"},
        "sanchit-gandhi/tedlium-data",
        ["data/train-00000-of-00001.parquet"],
        {
            "audio": datasets.Audio(16_000),
            **text("text", "speaker_id"),
            "gender": datasets.ClassLabel(names=["unknown", "female", "male"]),
            **text("file", "id"),
        },
        "text",
        [
            ("i didn 't know it 's so", "i didn't know it's so"),
            ("the first <unk> of this [ applause ] kind", "the first of this kind"),
            ("<unk> and so on", None),
            ("and then <unk>", None),
            ("ignore_time_segment_in_scoring", None),
        ],
    ),
    "voxpopuli": Standin(
        {"name": "voxpopuli", "language": "en", "split": "train"},
        "facebook/voxpopuli",
        ["en/train-00000-of-00002.parquet", "en/train-00001-of-00002.parquet"],
        {
            **text("audio_id"),
            "language": datasets.ClassLabel(names=["en", "de", "fr"]),
            "audio": datasets.Audio(16_000),
            **text("raw_text", "normalized_text", "gender", "speaker_id"),
            "is_gold_transcript": datasets.Value("bool"),
            **text("accent"),
        },
        "normalized_text",
        [
            ("thank you mr president.", "thank you mr president"),
            ("that is eighty-five per cent, i think", "that is eighty five per cent i think"),
            ("", None),
        ],
        format="OGG",
    ),
    "loquacious": Standin(
        {"name": "loquacious", "subset": "small"},
        "speechbrain/LoquaciousSet",
        ["small/train-00000-of-00001.parquet"],
        {
            **text("ID"),
            "duration": datasets.Value("float32"),
            "wav": datasets.Audio(16_000),
            **text("spk_id", "sex", "text"),
        },
        "text",
        [("SO THAT'S THE FIRST THING", "so that's the first thing"), (None, None)],
        format="WAV",
        audio="wav",
        evaluation={"dev": "dev/dev-00000-of-00001.parquet"},
    ),
}
WORDS = ("one", "two", "three", "four", "five", "six", "seven")


def rows(standin: Standin, count: int) -> list[tuple[str | None, str | None]]:
    """What `count` rows say, and what is taught of it: the quirks, then plain words in the corpus's own case."""
    plain = []
    for number in range(count - len(standin.quirks)):
        said = f"{WORDS[number % 7]} {WORDS[number // 7 % 7]}"
        plain.append((said.upper() if standin.repository == "openslr/librispeech_asr" else said, said))
    return [*standin.quirks, *plain]


def recording(standin: Standin, number: int) -> bytes:
    """From half a second on, each of another length, so that no two are alike."""
    seconds = 0.5 + 0.02 * (number % 40)
    file = io.BytesIO()
    soundfile.write(file, tone(seconds, standin.rate, pitch=150 + number), standin.rate, format=standin.format)
    return file.getvalue()


def write_rows(standin: Standin, path: Path, part: list[tuple[int, str | None]]) -> None:
    table = []
    for number, said in part:
        values: dict[str, Any] = dict.fromkeys(standin.features)
        for name, feature in standin.features.items():
            if isinstance(feature, datasets.ClassLabel):
                values[name] = 0
            elif getattr(feature, "dtype", "") == "string":
                values[name] = f"{name}{number}"
        content = recording(standin, number)
        values[standin.audio] = {"bytes": content, "path": f"clip{number}.{standin.format.lower()}"}
        if "begin_time" in values:  # a segment of a longer recording
            values |= {"begin_time": 10.0, "end_time": 10.0 + len(tone(0.5 + 0.02 * (number % 40))) / 16_000}
        if "duration" in values:
            values["duration"] = 0.5 + 0.02 * (number % 40)
        values[standin.text] = said
        table.append(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = datasets.Features(standin.features).arrow_schema  # with the Hub's own description of the features
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table, schema), path, row_group_size=ROWS_A_GROUP)


def write_standins(root: Path, count: int = 24) -> Path:
    """Write all of them below `root`, `count` rows each, and a few evaluation clips where the corpus has them."""
    for standin in STANDINS.values():
        numbered = [(number, said) for number, (said, _) in enumerate(rows(standin, count))]
        size = -(-count // len(standin.files))
        for i, name in enumerate(standin.files):
            write_rows(standin, root / standin.repository / name, numbered[i * size : (i + 1) * size])
        for name in standin.evaluation.values():
            write_rows(
                standin, root / standin.repository / name, [(100 + i, f"{WORDS[i]} {WORDS[i + 1]}") for i in range(5)]
            )
        (root / standin.repository / "README.md").write_text("---\nlicense: other\n---\n")
    return root
