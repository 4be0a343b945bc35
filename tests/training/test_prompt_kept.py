"""What was trained is what is read: the prompt of a checkpoint outlives its chat template, not its tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from clips import read_lines
from tiny_audio.cli import main
from tiny_audio.inference import Decoding, Recognizer, transcribe
from tiny_audio.training.checkpoint import load_checkpoint, save_checkpoint

DATED = "It is Friday.\n{{% for m in messages %}}{content}<|end|>\n{{% endfor %}}".format(content="{{ m['content'] }}")
TODAY = "the decoder's chat template now writes another one."


@pytest.fixture(scope="module")
def typed(run_settings, tmp_path_factory, tiny_models) -> list[str]:
    folder = shutil.copytree(tiny_models.qwen3, tmp_path_factory.mktemp("decoder") / "qwen3")
    steps = ["training.max_steps=4", "training.save_steps=2", "training.eval_steps=4", "data.max_eval_samples=3"]
    others = [setting for setting in run_settings if not setting.startswith("model.decoder=")]
    return ["train", *others, f"model.decoder={folder}", *steps]


@pytest.fixture(scope="module")
def run(typed, tmp_path_factory) -> Path:
    """A whole run. After it the template of the decoder is another one."""
    folder = tmp_path_factory.mktemp("run")
    assert main([*typed, f"paths.output_dir={folder}", f"paths.cache_dir={folder}/cache"]) == 0
    template = decoder_of(typed) / "chat_template.jinja"
    assert template.is_file()
    template.write_text(DATED)
    return folder / "transcription/checkpoints"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def decoder_of(typed: list[str]) -> Path:
    (setting,) = (setting for setting in typed if setting.startswith("model.decoder="))
    return Path(setting.partition("=")[2])


def test_a_run_goes_on_to_the_bit_under_another_template(run, typed, capsys):
    Path("outputs/transcription/checkpoints").mkdir(parents=True)
    shutil.copy(run / "checkpoint-step-2.pt", "outputs/transcription/checkpoints")
    assert main(typed) == 0
    assert TODAY in capsys.readouterr().err
    ours, theirs = load_checkpoint("outputs/transcription/checkpoints/final.pt"), load_checkpoint(run / "final.pt")
    for name, weight in theirs["weights"]["projector"].items():
        assert torch.equal(ours["weights"]["projector"][name], weight), name
    assert ours["state"]["history"] == theirs["state"]["history"]
    assert ours["models"]["prompt_ids"] == theirs["models"]["prompt_ids"]


def test_a_stage_reads_the_prompt_of_the_stage_before(run, typed):
    assert main([*typed, "training.max_steps=1", f"model.projector_checkpoint={run}/final.pt"]) == 0
    started = load_checkpoint("outputs/transcription/checkpoints/final.pt")
    assert started["models"]["prompt_ids"] == load_checkpoint(run / "final.pt")["models"]["prompt_ids"]


def test_it_evaluates_and_transcribes_as_when_it_was_trained(run, corpus, monkeypatch, capsys):
    monkeypatch.setattr(transcribe, "choose_precision", lambda *_: "no")  # as in training, also on CPUs with bf16
    last = load_checkpoint(run / "final.pt")["state"]["history"][-1]
    assert main(["eval", "--device=cpu", f"checkpoint={run}/final.pt", "scoring=ours", "output=rows.json"]) == 0
    assert capsys.readouterr().err.count(TODAY) == 1
    (row,) = json.loads(Path("rows.json").read_text())
    assert (row["wer"], row["loss"]) == (last["wer"], pytest.approx(last["loss"], rel=1e-5))
    rows = read_lines(run.parent / "transcripts.jsonl")
    recognizer = Recognizer(run / "final.pt", "cpu", decoding=Decoding(max_new_tokens=20, loop_guard=False))
    for row in rows:
        assert recognizer.transcribe(corpus / row["name"]).text.split() == row["hypothesis"].split()


def test_a_checkpoint_of_an_older_version_is_read_with_the_template_of_today(run, capsys):
    older = load_checkpoint(run / "final.pt")
    stored = older["models"].pop("prompt_ids")
    del older["models"]["projector_config"]
    older["state"]["step"] = 3
    save_checkpoint(Path("older.pt"), older)
    prompt = Recognizer("older.pt", "cpu").model.decoder.prompt
    assert prompt.prefix_ids[:-1] != stored["prefix_ids"]
    assert prompt.pieces(prompt.prefix_ids)[0] == "I"
    assert main(["eval", "--device=cpu", "checkpoint=older.pt", f"checkpoint={run}/final.pt", "output=rows.json"]) == 0
    before, now = json.loads(Path("rows.json").read_text())
    assert before["loss"] != now["loss"]
    assert now["loss"] == pytest.approx(older["state"]["history"][-1]["loss"], rel=1e-5)


def test_another_tokenizer_is_one_line(run, typed, corpus, capsys):
    moved = Path(shutil.copytree(decoder_of(typed), "moved"))
    file = moved / "tokenizer.json"
    vocabulary = file.read_text()
    assert vocabulary.count('"<|im_end|>"') > 1
    file.write_text(vocabulary.replace('"<|im_end|>"', '"<|other|>"'))
    (moved / "tokenizer_config.json").write_text(
        (moved / "tokenizer_config.json").read_text().replace("<|im_end|>", "<|other|>")
    )
    Path("outputs/transcription/checkpoints").mkdir(parents=True)
    shutil.copy(run / "checkpoint-step-2.pt", "outputs/transcription/checkpoints")
    for arguments in (
        [*typed, f"model.decoder={moved}"],
        ["eval", "--device=cpu", f"checkpoint={run}/final.pt", f"decoder={moved}"],
        ["infer", f"checkpoint={run}/final.pt", f"decoder={moved}", f"audio={corpus}/dev0.flac"],
    ):
        capsys.readouterr()
        assert main(arguments) == 2
        assert "was trained with another tokenizer than model.decoder=" in capsys.readouterr().err.splitlines()[-1]
