"""The Hub, as far as it can be had without a network: a stand-in on this machine answers as it does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from clips import parquet_of
from hub_stub import HubStub, at_hub, serving
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data.corpora import CORPORA, hub_location, known_corpus
from tiny_audio.data.hub import select_files
from tiny_audio.data.sources import open_source
from tiny_audio.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs" / "data"

LIBRISPEECH = [
    "README.md",
    "clean/train.100/0000.parquet",
    "clean/train.360/0000.parquet",
    "clean/train.360/0001.parquet",
    "clean/validation/0000.parquet",
    "other/train.500/0000.parquet",
    "other/validation/0000.parquet",
]
COMMON_VOICE = [
    "en/train-00000-of-00002.parquet",
    "en/train-00001-of-00002.parquet",
    "en/validation-00000-of-00001-0a1b2c.parquet",
    "en/test.parquet",
    "ko/train-00000-of-00001.parquet",
]


@pytest.mark.parametrize(
    ("files", "configuration", "split", "chosen"),
    [
        (LIBRISPEECH, "clean", "train.360", LIBRISPEECH[2:4]),
        (LIBRISPEECH, "other", "validation", LIBRISPEECH[6:]),
        (LIBRISPEECH, "clean", "dev", LIBRISPEECH[4:5]),
        (LIBRISPEECH, "clean", "train", []),
        (LIBRISPEECH, None, None, LIBRISPEECH[1:]),
        (COMMON_VOICE, "en", "train", COMMON_VOICE[:2]),
        (COMMON_VOICE, "en", "dev", COMMON_VOICE[2:3]),
        (COMMON_VOICE, "en", "test", COMMON_VOICE[3:4]),
        (COMMON_VOICE, "k", "train", []),
        (["data/train-clean-00000-of-00001.parquet"], None, "train", []),
    ],
)
def test_files_of_a_split(files: list[str], configuration: str | None, split: str | None, chosen: list[str]) -> None:
    assert select_files(files, configuration, split) == chosen


@pytest.mark.parametrize(
    ("settings", "location"),
    [
        ({"name": "librispeech"}, ("clean", "train.360")),
        ({"name": "librispeech", "split": "test-other"}, ("other", "test")),
        ({"name": "common_voice", "language": "zh-CN", "split": "dev"}, ("zh-CN", "dev")),
        ({"name": "gigaspeech", "subset": "L", "split": "train"}, ("l", "train")),
        ({"name": "tedlium", "release": 3}, (None, "train")),
        ({"name": "voxpopuli", "language": "en"}, ("en", "train")),
        ({"name": "loquacious", "subset": "medium"}, ("medium", "train")),
    ],
)
def test_the_guides_entries_have_a_place_on_the_hub(
    settings: dict[str, object], location: tuple[str | None, str]
) -> None:
    entry = DatasetConfig(**settings)  # type: ignore[arg-type]
    corpus = known_corpus(entry)
    assert corpus is not None
    assert hub_location(entry, corpus) == location


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_entry_is_known(file: Path) -> None:
    shipped = yaml.safe_load(file.read_text(encoding="utf-8"))
    for settings in [*shipped["datasets"], *shipped["eval_datasets"]]:
        assert settings["name"] in [*CORPORA, "pocket", "custom"] or "path" in settings
        if settings["name"] in CORPORA:
            known_corpus(DatasetConfig(**settings))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubStub]:
    """Two open repositories, a gated one, and one of scripts."""
    root = tmp_path_factory.mktemp("hub")
    for name, content in {
        "me/speech/README.md": b"#",
        "me/speech/data/train-00000-of-00002.parquet": parquet_of(["one", "two"]),
        "me/speech/data/train-00001-of-00002.parquet": parquet_of(["three"]),
        "me/languages/en/train.parquet": b"",
        "me/languages/ko/train.parquet": b"",
        "me/script/script.py": b"",
        "me/gated/data/train.parquet": b"",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    with serving(root, frozenset({"me/gated"})) as server:
        yield server


def open_there(endpoint: str, folder: Path, *entries: tuple[dict[str, object], int | None]) -> list[str]:
    """What `open_source` says to each entry."""
    said = []
    with at_hub(endpoint, folder) as cache:
        for settings, limit in entries:
            try:
                source = open_source(DatasetConfig(**settings), DataConfig(), cache, limit)  # type: ignore[arg-type]
                said.append(f"{len(source)} {list(source.texts)} {len(source.read(0))}")
            except UserError as error:
                said.append(str(error))
    return said


Entry = tuple[dict[str, object], int | None]
SPEECH: dict[str, object] = {"path": "me/speech"}
EVERYTHING = "3 ['one', 'two', 'three'] 16000"
REFUSED: list[tuple[dict[str, object], str]] = [
    ({"path": "me/gated"}, "accept its terms at https://huggingface.co/datasets/me/gated, then set HF_TOKEN"),
    (
        {"path": "me/nothing"},
        "There is no me/nothing on this disk. Could not fetch the dataset me/nothing: there is no such",
    ),
    ({"path": "me/speech", "revision": "v9"}, "me/speech: it has no revision v9"),
    ({"path": "me/speech", "split": "test"}, "no parquet files of test; its parquet files are in data (see"),
    ({"path": "me/script"}, "it has no parquet files"),
    ({"path": "me/languages"}, "has train in en, ko (see"),
    ({"path": "me/speech", "text_column": "words"}, "no column words; it has audio, text: set text_column"),
]


def test_a_repository_is_fetched_as_far_as_needed_and_then_no_more(hub: HubStub, tmp_path: Path) -> None:
    entries: list[Entry] = [(SPEECH, 2), (SPEECH, None), *((entry, None) for entry, _ in REFUSED)]
    said = open_there(hub.endpoint, tmp_path, *entries)
    assert said[:2] == ["2 ['one', 'two'] 16000", EVERYTHING]
    for line, (_, expected) in zip(said[2:], REFUSED, strict=True):
        assert expected in line
    lookups = [request for request in hub.requests if request.startswith("GET /api/datasets/me/speech?blobs")]
    assert len(lookups) == 1

    # From here on there is no Hub: what was fetched serves, and anything else is refused within seconds.
    began = time.perf_counter()
    unreachable = "http://127.0.0.1:9"
    named: list[Entry] = [({"name": "librispeech"}, None), ({"name": "gigaspeech", "subset": "L"}, None)]
    cached, *refused = open_there(unreachable, tmp_path, (SPEECH, None), *named)
    assert cached == EVERYTHING
    for line, name in zip(refused, ("openslr/librispeech_asr", "speechcolab/gigaspeech"), strict=True):
        assert line.startswith(f"Could not fetch the dataset {name}: the Hugging Face Hub cannot be reached")
        assert "HF_ENDPOINT" in line
    assert time.perf_counter() - began < 60


def test_offline_mode_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"openslr/librispeech_asr: HF_HUB_OFFLINE is set"):
        open_source(DatasetConfig(name="librispeech"), DataConfig(), tmp_path)
