"""A decoder that reads no audio: it learns from transcripts and text alone, and the projector stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from runs import metrics, settings
from tiny_audio.cli import main
from tiny_audio.config import Config, DataConfig, DatasetConfig, ModelConfig, SearchConfig, TrainingConfig
from tiny_audio.data.loader import ClipDataset
from tiny_audio.data.plan import Draw
from tiny_audio.data.sentences import LINES, TextDataset, alphabet_of, read_sentences
from tiny_audio.data.sources import open_sources
from tiny_audio.errors import ConfigError, UserError
from tiny_audio.training.checkpoint import load_checkpoint
from tiny_audio.training.loop import Trainer
from tiny_audio.training.texts import check_language_model
from tiny_models import build

CHECKPOINTS = Path("outputs/transcription/checkpoints")
LETTERS = alphabet_of(["don't"])
NO_AUDIO = SearchConfig(beams=2, audio=False, examples=2)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (
            'It was a dark night; the rain\nfell in torrents. "Who is\nthere?" he said.\n\nNo.\n',
            ["it was a dark night", "the rain fell in torrents", "who is there"],
        ),
        ("THE FIRST SENTENCE\nTHE SECOND SENTENCE\n", ["the first sentence", "the second sentence"]),
        ("There were 3 dogs. There were three dogs.\n", ["there were three dogs"]),
    ],
    ids=["prose", "one a line", "a digit"],
)
def test_text_is_cut_into_sentences_in_the_form_of_transcripts(text, sentences, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(text)
    assert list(read_sentences(path, DataConfig(), LETTERS)) == sentences


def test_text_that_cannot_be_used_is_refused(tmp_path):
    path = tmp_path / "text.txt"
    with pytest.raises(UserError, match=r"data\.text_path: .*text\.txt cannot be read"):
        read_sentences(path, DataConfig(), LETTERS)
    path.write_text("1 2 3 4 5 6 7 8 9 10\n")
    with pytest.raises(UserError, match=r"no sentence of 10 to 300 characters .* \(1 have other characters\)"):
        read_sentences(path, DataConfig(), LETTERS)


def test_a_batch_of_text_depends_on_its_draws_alone(corpus, tmp_path):
    data = DataConfig()
    sources = open_sources([DatasetConfig(path=str(corpus / "train.jsonl"))], data, tmp_path, limit=None, seed=0)
    dataset = ClipDataset(sources, lambda text: [*text.encode(), 0], data)
    texts = TextDataset(dataset, dataset.tokenize, [f"sentence {n}" for n in range(100)], seed=3)
    draws = [Draw(number, 0, number % 4) for number in range(8)]
    whole = texts.__getitems__(draws)
    alone = [texts.__getitems__([draw]) for draw in reversed(draws)][::-1]
    assert [ids.tolist() for ids in whole.target_ids] == [one.target_ids[0].tolist() for one in alone]
    lines = bytes(whole.target_ids[5].tolist()).decode().split("\0")
    assert lines[0] == whole.transcripts[5]
    assert len(lines) == 1 + LINES + 1
    assert all(line.startswith("sentence ") for line in lines[1:-1])
    assert len({tuple(texts.after(number)) for number in range(8)}) == 8


@pytest.mark.parametrize("training", [True, False])
def test_the_loss_of_text_is_the_language_models_own(tiny_models, training):
    model = build(tiny_models, "mlp").train(training)
    model.search = NO_AUDIO
    prompt = model.decoder.prompt
    prompt.set_examples(["an example", "another"])
    targets = [torch.tensor(model.tokenize(text)) for text in ("the first line", "a second one")]
    frames = torch.randn(30, model.encoder.encoder_dim)
    found = model.loss(frames, [20, 10], targets)
    expected = 0.0
    for target in targets:
        before = [*prompt.prefix_ids, *prompt.suffix_ids, *([] if training else prompt.example_ids)]
        ids = torch.tensor([*before, *target.tolist()])
        logits = model.decoder.module(ids[None]).logits[0, len(before) - 1 : -1]
        expected += float(cross_entropy(logits.float(), target, reduction="sum"))
        assert target[-1] == prompt.line_end_id
    assert float(found.cross_entropy) == pytest.approx(expected, rel=1e-4)
    assert found.num_targets == sum(map(len, targets))
    other = model.loss(torch.randn_like(frames), [20, 10], targets)
    assert torch.equal(other.cross_entropy, found.cross_entropy), "no audio is read"


def test_a_run_teaches_the_decoder_words_and_goes_on_exactly(run_settings, tmp_path, monkeypatch, capfd):
    """Killed after step 3 of 6, in the middle of its steps on text."""
    text = tmp_path / "text.txt"
    text.write_text(20 * "Seven zero nine, three one.\n")
    typed = settings(run_settings, "training.max_steps=6", "training.save_steps=3", "training.eval_steps=6")
    typed += ["model.use_lora=true", "model.search.beams=2", "model.search.audio=false", f"data.text_path={text}"]
    typed += ["model.projector_type=mlp", "model.lora_config.target_modules=[q_proj,v_proj]"]
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    assert main(typed) == 0
    said = capfd.readouterr().err
    assert "text.txt: 20 sentences to learn words from" in said
    assert "Trained on" not in said, "no audio was read after the warm-up"

    monkeypatch.chdir(tmp_path / "stopped")
    finish = Trainer.finish_step

    def killed(self, shown):
        finish(self, shown)
        if self.state.step == 3:
            raise ZeroDivisionError  # nothing is written any more, as after SIGKILL

    monkeypatch.setattr(Trainer, "finish_step", killed)
    with pytest.raises(ZeroDivisionError):
        main(typed)
    monkeypatch.setattr(Trainer, "finish_step", finish)
    assert main(typed) == 0

    assert metrics(tmp_path / "whole") == metrics(tmp_path / "stopped")
    ours, theirs = (
        load_checkpoint(tmp_path / name / CHECKPOINTS / "final.pt")["weights"] for name in ("whole", "stopped")
    )
    assert all(torch.equal(ours[part][name], theirs[part][name]) for part in ours for name in ours[part])
    warmed = load_checkpoint(tmp_path / "whole" / CHECKPOINTS / "checkpoint-step-3.pt")["weights"]
    assert all(torch.equal(ours["projector"][name], warmed["projector"][name]) for name in ours["projector"])
    assert any(not torch.equal(ours["lora"][name], warmed["lora"][name]) for name in ours["lora"])


def refused(model: dict, data: dict | None = None) -> str:
    config = Config(model=ModelConfig(**model), data=DataConfig(**(data or {})), training=TrainingConfig())
    with pytest.raises(ConfigError) as found:
        check_language_model(config)
    return str(found.value)


def test_steps_that_train_nothing_and_text_that_nothing_reads_are_refused():
    assert "set model.use_lora=true, or training.max_steps=0" in refused({"search": NO_AUDIO})
    assert "set model.use_lora=true" in refused({"search": NO_AUDIO, "use_lora": True, "freeze_lora": True})
    assert "set model.search.beams=8, model.search.audio=false" in refused({}, {"text_path": "text.txt"})
    model, text = ModelConfig(search=NO_AUDIO, use_lora=True), DataConfig(text_path="nowhere.txt")
    warmup_alone = TrainingConfig(max_steps=0, ctc_warmup_steps=10)
    with pytest.raises(ConfigError, match=r"training\.max_steps=150"):
        check_language_model(Config(model=model, data=text, training=warmup_alone))
    with pytest.raises(UserError, match=r"data\.text_path=nowhere\.txt: there is no such file"):
        check_language_model(Config(model=model, data=text))
    check_language_model(Config(model=ModelConfig(search=NO_AUDIO, use_lora=True)))
