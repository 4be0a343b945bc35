"""A run on clips with contexts: what it keeps, how it is evaluated, and what a model of an older version does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from clips import read_lines, write_manifest
from tiny_audio.cli import main
from tiny_audio.config import DataConfig, DatasetConfig, TrainingConfig
from tiny_audio.data.contexts import ContextReader
from tiny_audio.data.loader import ClipDataset
from tiny_audio.data.sources import open_source
from tiny_audio.inference import Decoding, Recognizer
from tiny_audio.model.sequences import Sequences
from tiny_audio.training.checkpoint import load_checkpoint, save_checkpoint
from tiny_audio.training.preflight import memory
from tiny_models import build


def with_contexts(corpus: Path, split: str, folder: Path, context: str) -> Path:
    """The rows of a split; all but the first three clips have a context."""
    rows = read_lines(corpus / f"{split}.jsonl")
    for number, row in enumerate(rows):
        row |= {"audio": str(corpus / row["audio"]), "context": context.format(number=number) if number > 2 else None}
    return write_manifest(folder / f"{split}.jsonl", rows)


@pytest.fixture(scope="module")
def typed(run_settings, corpus, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("contexts")
    train = with_contexts(corpus, "train", folder, "Names: {number}, Seven")
    dev = with_contexts(corpus, "dev", folder, "six, {number}")
    sets = [f"data.datasets=[{{path: {train}}}]", f"data.eval_datasets=[{{path: {dev}}}]"]
    return ["train", *(one for one in run_settings if "datasets=" not in one), *sets]


@pytest.fixture(scope="module")
def run(typed, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    assert main([*typed, f"paths.output_dir={folder}", f"paths.cache_dir={folder}/cache"]) == 0
    return folder / "transcription/checkpoints"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_what_was_trained_with_contexts_says_so_and_is_evaluated_with_them(run, typed, corpus, capsys):
    saved = load_checkpoint(run / "final.pt")
    assert (saved["contexts"], saved["models"]["context_prompt"]) == (57, "Context: {context}")
    rows = read_lines(run.parent / "transcripts.jsonl")
    recognizer = Recognizer(run / "final.pt", "cpu", decoding=Decoding(max_new_tokens=20, loop_guard=False))
    plain = 0
    for row in rows:
        number = int(Path(row["name"]).stem.removeprefix("dev"))
        context = f"Six, {number}" if number > 2 else ""
        assert recognizer.transcribe(corpus / Path(row["name"]).name, context=context).text == row["hypothesis"]
        plain += recognizer.transcribe(corpus / Path(row["name"]).name).text == row["hypothesis"]
    assert 3 <= plain < len(rows), "without their contexts others would be written"
    assert "trained without contexts" not in capsys.readouterr().err

    last = saved["state"]["history"][-1]
    assert main(["eval", "--device=cpu", f"checkpoint={run}/final.pt", "scoring=ours", "output=rows.json"]) == 0
    (row,) = json.loads(Path("rows.json").read_text())
    assert (row["wer"], row["loss"]) == (last["wer"], pytest.approx(last["loss"], rel=1e-5))


def test_with_all_contexts_left_out_the_run_is_the_one_without(run, typed, run_settings, corpus):
    """To the last bit, and it does not say that it was trained with contexts."""
    without = [one.replace(".jsonl}", ".jsonl, context_column: ''}") for one in typed]
    found = []
    for name, settings in (("dropped", [*typed, "data.context_dropout=1"]), ("none", without)):
        assert (
            main([*settings, f"paths.output_dir={name}", "data.eval_datasets=[]", "training.ctc_loss_weight=0.3"]) == 0
        )
        found.append(load_checkpoint(f"{name}/transcription/checkpoints/final.pt"))
    assert [saved["contexts"] for saved in found] == [0, 0]
    for name, weight in found[1]["weights"]["projector"].items():
        assert torch.equal(found[0]["weights"]["projector"][name], weight), name
    trained = load_checkpoint(run / "final.pt")["weights"]["projector"]
    assert any(not torch.equal(trained[name], weight) for name, weight in found[1]["weights"]["projector"].items())


def test_a_checkpoint_of_an_older_version_writes_what_it_wrote_and_goes_on(run, typed, corpus, capsys):
    older = load_checkpoint(run / "final.pt")
    recording = corpus / "dev0.flac"
    before = Recognizer(run / "final.pt", "cpu").transcribe(recording)
    for name in ("before_context_ids", "after_context_ids"):
        del older["models"]["prompt_ids"][name]
    del older["models"]["context_prompt"], older["contexts"], older["config"]["model"]["context_prompt"]
    for name in ("context_dropout", "max_context_length"):
        del older["config"]["data"][name]
    save_checkpoint(Path("older.pt"), older)
    recognizer = Recognizer("older.pt", "cpu")
    assert recognizer.transcribe(recording) == before
    capsys.readouterr()
    assert recognizer.transcribe(recording, context="six").text != ""
    assert main([*typed, "training.max_steps=1", "model.checkpoint=older.pt"]) == 0


def test_another_place_for_the_context_is_refused_in_a_line(run, typed, capsys):
    assert main([*typed, f"model.checkpoint={run}/final.pt", "model.context_prompt='Names: {context}'"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "was trained with model.context_prompt=Context: {context}, and this run has Names: {context}." in line
    assert main([*typed, "model.context_prompt=Names"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "model.context_prompt must hold {context} once, where the context goes, got 'Names'." in line


def test_the_longest_contexts_are_tried_before_the_first_step(tiny_models, corpus, tmp_path, monkeypatch):
    model, accelerator = build(tiny_models, "mlp"), Accelerator(cpu=True)
    rows = read_lines(corpus / "train.jsonl")
    rows = [{**row, "audio": str(corpus / row["audio"]), "context": "one " * n} for n, row in enumerate(rows)]
    source = open_source(DatasetConfig(path=str(write_manifest(tmp_path / "a.jsonl", rows))), DataConfig(), tmp_path)
    prompt = model.decoder.prompt
    dataset = ClipDataset([source], prompt.target_ids, DataConfig(), contexts=ContextReader(prompt.context_ids, 0.5))
    lay_out, seen = Sequences.lay_out.__func__, []

    def watched(cls, prompt, num_audio, targets, device, contexts=()):
        seen.append([len(ids) for ids in contexts])
        return lay_out(cls, prompt, num_audio, targets, device, contexts)

    monkeypatch.setattr(Sequences, "lay_out", classmethod(watched))
    longest = [len(prompt.context_ids(" ".join(["one"] * n))) for n in range(59, 51, -1)]
    training = TrainingConfig(batch_size=8, eval_batch_size=3, max_new_tokens=10)
    for trial in (
        memory.training_trial(training, model, dataset, accelerator),
        memory.evaluation_trial(training, model, dataset, accelerator),
    ):
        trial.run(trial.batch(len(trial.seconds)))
    assert seen == [longest, longest[:3], longest[:3]]
    plain = ClipDataset([source], prompt.target_ids, DataConfig())
    assert not memory.training_trial(training, model, plain, accelerator).batch(2).context_ids
