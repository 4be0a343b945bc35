"""What the docs show is run as it stands there: the tutorial, the four parts that are added, the notebook."""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
import types
from pathlib import Path

import httpx
import nbformat
import pytest
import torch
from nbclient import NotebookClient
from transformers import Qwen2AudioEncoder, Qwen2AudioEncoderConfig

from runs import run_ta, start_ta
from tiny_audio.cli import main
from tiny_audio.config import DatasetConfig
from tiny_audio.data import corpora
from tiny_audio.evaluation import scoring
from tiny_audio.inference import Recognizer
from tiny_audio.model.encoder import ENCODERS, load_encoder

DOCS = Path(__file__).parents[1] / "docs"
# All that is different from what stands in the docs: how long the runs are, and the port.
SHORTER = {
    "train": ["training.max_steps=6", "training.eval_steps=6", "training.warmup_steps=2", "data.num_workers=0"],
    "serve": ["port=0"],
}


def blocks(page: str, *kinds: str) -> list[tuple[str, str]]:
    """(kind, text) of the fenced blocks of a page, or of those kinds; kind is empty where none is said."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    return [block for block in found if not kinds or block[0] in kinds]


def part(page: str, heading: str) -> str:
    """The part of a page below a heading of the second level."""
    return re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)[1]


def test_the_tutorial_from_nothing_to_a_served_model(tmp_path, monkeypatch):
    """Every command, in order, in a folder that is empty at first."""
    page = (DOCS / "tutorial.md").read_text().partition("## With models of full size")[0]
    monkeypatch.chdir(tmp_path)
    done = []
    server = None
    try:
        for kind, text in blocks(page, "", "python", "sh"):
            if kind == "python":
                exec(text.replace("3600", "40").replace("50)", "6)"), {})
            for line in text.splitlines() if kind != "python" else ():
                name, *arguments = shlex.split(line)[:2] if line.startswith("curl") else shlex.split(line)[1:] or [""]
                if line.startswith("ta serve"):
                    server = start_ta([name, *arguments, *SHORTER[name]], tmp_path)
                elif line.startswith("ta "):
                    status, log = run_ta([name, *arguments, *SHORTER.get(name, [])], tmp_path)
                    assert status == 0, f"{line}\n{log}"
                elif line.startswith("curl"):
                    assert server is not None
                    ask(line, server, tmp_path)
                else:
                    continue
                done.append(line.split()[1] if line.startswith("ta ") else "curl")
    finally:
        if server is not None:
            server.send_signal(2)
            server.wait(timeout=60)
    assert {"check.html", "judged", "my-recognizer", "preview"} <= {path.name for path in tmp_path.iterdir()}
    assert done == ["doctor", "data", "data", "train", "plot", "infer", "eval", "export", "serve", "curl", "push"]


def ask(line: str, server: object, folder: Path) -> None:
    """What the tutorial's curl does, at the port that the server took."""
    fields = dict(field.split("=", 1) for field in re.findall(r"-F (\S+)", line))
    log = folder / "log.txt"
    while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text() if log.exists() else "")):
        assert server.poll() is None, log.read_text()  # type: ignore[attr-defined]
        time.sleep(0.05)
    address = re.search(r"curl (\S+)", line)[1].replace(":8000", f":{found[1]}")
    with (folder / fields["file"].removeprefix("@")).open("rb") as file:
        answer = httpx.post(address, data={"model": fields["model"]}, files={"file": file}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert isinstance(answer.json()["text"], str)


@pytest.fixture
def extending() -> str:
    return (DOCS / "extending.md").read_text()


def test_an_encoder_is_the_file_and_the_line_of_the_docs(extending, run_settings, tmp_path, monkeypatch):
    """Typed in as the docs have it, it trains, and its checkpoint transcribes."""
    shown = part(extending, "An encoder")
    (_, code), (_, line) = blocks(shown, "python", "text")
    kind, target = re.fullmatch(r'\s*"(\w+)": "([\w.]+)",\s*', line).groups()
    name = f"tiny_audio.model.{target.split('.')[0]}"
    module = types.ModuleType(name)
    module.__package__ = "tiny_audio.model"
    exec(compile(code, "docs/extending.md", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(ENCODERS, kind, target)
    monkeypatch.chdir(tmp_path)
    save_qwen2_audio(tmp_path / "ears")
    own = [s for s in run_settings if not s.startswith(("model.encoder=", "model.encoder_window="))]
    assert main(["train", *own, "model.encoder=ears", "training.max_steps=2", "data.max_samples=8"]) == 0
    recognizer = Recognizer(tmp_path / "outputs/transcription/checkpoints/final.pt", "cpu")
    assert type(recognizer.model.encoder).__name__ == target.split(".")[1]
    assert isinstance(recognizer.transcribe(torch.randn(16_000) * 0.1).text, str)


def test_an_encoder_of_the_docs_encodes_a_clip_alone_as_in_a_batch(extending, tmp_path, monkeypatch):
    namespace = {"__package__": "tiny_audio.model", "__name__": "tiny_audio.model.shown"}
    exec(blocks(part(extending, "An encoder"), "python")[0][1], namespace)
    module = types.ModuleType("tiny_audio.model.shown")
    module.__dict__.update(namespace)
    monkeypatch.setitem(sys.modules, "tiny_audio.model.shown", module)
    monkeypatch.setitem(ENCODERS, "qwen2_audio_encoder", "shown.Qwen2AudioSpeechEncoder")
    save_qwen2_audio(tmp_path)
    encoder = load_encoder(str(tmp_path), None, torch.float32)
    clips = torch.zeros(2, 32_000)
    clips[0], clips[1, :16_000] = torch.randn(32_000) * 0.1, torch.randn(16_000) * 0.1
    frames, lengths = encoder(clips, torch.tensor([32_000, 16_000]))
    alone, count = encoder(clips[1:, :16_000], torch.tensor([16_000]))
    assert lengths == [100, 50]
    assert count == [50]
    torch.testing.assert_close(frames[100:], alone, rtol=1e-4, atol=1e-5)


def save_qwen2_audio(folder: Path) -> None:
    torch.manual_seed(0)
    config = Qwen2AudioEncoderConfig(
        d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64, num_mel_bins=128
    )
    Qwen2AudioEncoder(config).save_pretrained(folder)


def test_a_preset_of_one_s_own_trains(extending, corpus, tmp_path, monkeypatch):
    shown = part(extending, "A corpus")
    (_, preset), *_ = blocks(shown, "yaml")
    file = tmp_path / re.search(r"`(presets/data/\w+\.yaml)`", shown)[1]
    file.parent.mkdir(parents=True)
    file.write_text(preset)
    (tmp_path / "talks").symlink_to(corpus)
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line)[1:] for line in blocks(shown, "")[0][1].splitlines()]
    assert [command[0] for command in commands] == ["data", "train"]
    for command in commands:
        shorter = [*SHORTER["train"], "training.batch_size=4"] if command[0] == "train" else ["--decode", "5"]
        assert main([*command, *shorter]) in ((0,) if command[0] == "train" else (0, 1))  # noise is no speech: 1
    config = json.loads(json.dumps((tmp_path / "outputs/quickstart/checkpoints/config.yaml").read_text()))
    assert "talks/train.jsonl" in config


def test_a_known_corpus_is_the_line_of_the_docs(extending, monkeypatch):
    """It is found by its name, with the place and the columns that the line says."""
    monkeypatch.setattr(corpora, "CORPORA", dict(corpora.CORPORA))
    exec(blocks(part(extending, "A corpus"), "python")[0][1], vars(corpora))
    entry = DatasetConfig(name="talks", split="train")
    corpus = corpora.known_corpus(entry)
    assert corpus is not None
    assert (corpus.hub_id, corpus.text_column) == ("user/talks", "sentence")
    assert corpora.hub_location(entry, corpus) == ("en", "train")


def test_a_rule_of_scoring_is_the_entry_of_the_docs(extending, monkeypatch):
    monkeypatch.setattr(scoring, "RULES", dict(scoring.RULES))
    monkeypatch.setattr(scoring, "_plain", None, raising=False)
    exec(blocks(part(extending, "A metric"), "python")[0][1], vars(scoring))
    rule, ours = scoring.parse_rules("no-accents,ours")
    assert rule.split("Café au lait")[0] == ["cafe", "au", "lait"]
    assert ours.split("Café au lait")[0] == ["café", "au", "lait"]


def test_the_notebook_runs_and_draws(tmp_path, monkeypatch):
    """All of it, with a short run; its three figures are drawn anew."""
    monkeypatch.setenv(
        "QUICKSTART_SETTINGS",
        "training.max_steps=4 training.eval_steps=4 training.ctc_warmup_steps=4 data.max_samples=200 "
        "data.max_eval_samples=4 training.warmup_steps=2 logging.log_steps=1 data.num_workers=0",
    )
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(DOCS / "quickstart.ipynb", as_version=4)
    for cell in notebook.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert count_pictures(notebook) == 3


def test_the_notebook_is_kept_with_its_pictures():
    notebook = nbformat.read(DOCS / "quickstart.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert count_pictures(notebook) == 3


def count_pictures(notebook: nbformat.NotebookNode) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)
