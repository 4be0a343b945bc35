"""The Hub, as far as it can be had without a network: a stand-in on this machine answers as it does."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import pytest
import soundfile
import yaml

from clips import tone
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data.corpora import CORPORA, hub_location, known_corpus
from tiny_audio.data.hub import select_files
from tiny_audio.data.sources import open_source
from tiny_audio.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
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
        assert settings["name"] in [*CORPORA, "pocket", "custom"]
        if settings["name"] in CORPORA:
            known_corpus(DatasetConfig(**settings))


def parquet(*texts: str) -> bytes:
    """A file of 1-second clips, as a corpus on the Hub holds them."""
    wav = io.BytesIO()
    soundfile.write(wav, tone(1.0), 16_000, format="WAV")
    rows = [{"audio": {"bytes": wav.getvalue(), "path": f"{text}.wav"}, "text": text} for text in texts]
    file = io.BytesIO()
    datasets.Dataset.from_list(rows).to_parquet(file)
    return file.getvalue()


class Hub(BaseHTTPRequestHandler):
    """Two open repositories, a gated one, and the errors that the Hub gives for others."""

    files = {  # noqa: RUF012
        "me/speech": {
            "README.md": b"#",
            "data/train-00000-of-00002.parquet": parquet("one", "two"),
            "data/train-00001-of-00002.parquet": parquet("three"),
        },
        "me/languages": {"en/train.parquet": b"", "ko/train.parquet": b""},
        "me/script": {"script.py": b""},
        "me/gated": {"data/train.parquet": b""},
    }
    requests: list[str] = []  # noqa: RUF012

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.requests.append(f"{self.command} {self.path}")
        parts = self.path.split("?")[0].strip("/").split("/")
        api = parts[:2] == ["api", "datasets"]
        name = "/".join(parts[2:4] if api else parts[1:3])
        if name not in self.files:
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        if api and "revision" in parts and parts[-1] not in (COMMIT, "main"):
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if api:
            siblings = [{"rfilename": file} for file in self.files[name]]
            return self.answer(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())
        if name == "me/gated":
            return self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        content = self.files[name]["/".join(parts[5:])]
        return self.answer(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{len(content)}"'})

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


OPEN = """
import json, sys
from pathlib import Path
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data.sources import open_source
from tiny_audio.errors import UserError

for line in sys.stdin:
    settings, limit = json.loads(line)
    try:
        source = open_source(DatasetConfig(**settings), DataConfig(), Path("cache"), limit)
        print(len(source), list(source.texts), len(source.read(0)))
    except UserError as error:
        print(error)
"""


def open_there(
    endpoint: str, folder: Path, *entries: tuple[dict[str, object], int | None], **variables: str
) -> list[str]:
    """What `open_source` says to each entry, in a process of its own: the Hub's address is read at import."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "",
        **variables,
    }
    run = subprocess.run(
        [sys.executable, "-c", OPEN],
        input="".join(json.dumps(entry) + "\n" for entry in entries),
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    return run.stdout.splitlines()


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
    ({"path": "me/speech", "split": "test"}, "no parquet files of test; its parquet files lie in data (see"),
    ({"path": "me/script"}, "it has no parquet files at all"),
    ({"path": "me/languages"}, "has train in en, ko (see"),
    ({"path": "me/speech", "text_column": "words"}, "no column words; it has audio, text: set text_column"),
]


def test_a_repository_is_fetched_as_far_as_needed_and_then_no_more(endpoint: str, tmp_path: Path) -> None:
    entries: list[Entry] = [(SPEECH, 2), (SPEECH, None), *((entry, None) for entry, _ in REFUSED)]
    said = open_there(endpoint, tmp_path, *entries)
    assert said[:2] == ["2 ['one', 'two'] 16000", EVERYTHING]
    for line, (_, expected) in zip(said[2:], REFUSED, strict=True):
        assert expected in line
    downloads = [request for request in Hub.requests if request.startswith("GET /datasets/me/speech")]
    assert ["00000-of" in request for request in downloads] == [True, False]
    lookups = [request for request in Hub.requests if request == "GET /api/datasets/me/speech"]
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
    assert time.perf_counter() - began < 120  # most of it to start the process and import torch


def test_offline_mode_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"openslr/librispeech_asr: HF_HUB_OFFLINE is set"):
        open_source(DatasetConfig(name="librispeech"), DataConfig(), tmp_path)
