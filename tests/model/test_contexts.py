"""Clips with contexts of different lengths: the loss of each alone, and the transcript that each has alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tiny_audio.audio import pad_waveforms
from tiny_audio.model.flops import decoder_lengths
from tiny_audio.model.speech_llm import SpeechLLM
from tiny_models import build

SECONDS = (1.0, 0.5, 3.1, 0.6, 2.2)
TRANSCRIPTS = ("one two", "three", "six seven one four", "", "two")
CONTEXTS = ("", "seven", "one, two, three, four, five, six", "", "six seven " * 12)


@pytest.fixture(scope="module")
def model(tiny_models) -> SpeechLLM:
    return build(tiny_models, "mlp").eval()


@pytest.fixture(scope="module")
def clips(model) -> list[tuple[torch.Tensor, list[int]]]:
    """The encoder frames of each clip."""
    rng = np.random.default_rng(0)
    waves = [(rng.standard_normal(int(s * 16_000)) * 0.1).astype(np.float32) for s in SECONDS]
    return [model.encoder(*pad_waveforms([wave])) for wave in waves]


def together(clips) -> tuple[torch.Tensor, list[int]]:
    return torch.cat([frames for frames, _ in clips]), [lengths[0] for _, lengths in clips]


def known(model: SpeechLLM) -> list[torch.Tensor]:
    return [torch.tensor(model.decoder.prompt.context_ids(text.strip()), dtype=torch.int64) for text in CONTEXTS]


def targets(model: SpeechLLM) -> list[torch.Tensor]:
    return [torch.tensor(model.decoder.prompt.target_ids(text)) for text in TRANSCRIPTS]


def test_the_loss_of_a_batch_is_that_of_its_clips_alone_by_the_stock_model(model, clips):
    contexts, wanted, prompt, embed = known(model), targets(model), model.decoder.prompt, model.decoder.embed
    found = model.loss(*together(clips), wanted, contexts=contexts)
    expected = 0.0
    for clip, target, context in zip(clips, wanted, contexts, strict=True):
        before, after = prompt.suffix_ids, []
        if len(context):
            before, after = prompt.before_context_ids, prompt.after_context_ids
        ids = torch.tensor([*before, *context.tolist(), *after])
        tokens = model.audio_tokens(*clip)[0].tokens
        row = torch.cat([embed(torch.tensor(prompt.prefix_ids)), tokens, embed(ids), embed(target)])[None]
        labels = torch.full((1, row.shape[1]), -100)
        labels[0, -len(target) :] = target
        expected += model.decoder.module(inputs_embeds=row, labels=labels).loss.item() * len(target)
    assert found.cross_entropy.item() == pytest.approx(expected, rel=1e-5)
    assert found.cross_entropy.item() != pytest.approx(model.loss(*together(clips), wanted).cross_entropy.item())


def test_a_clip_is_written_down_the_same_alone_and_beside_others_with_other_contexts(model, clips):
    contexts = known(model)
    written = model.write(*together(clips), 24, contexts=contexts)
    alone = [model.write(*clip, 24, contexts=[context])[0] for clip, context in zip(clips, contexts, strict=True)]
    assert written == alone
    plain = model.write(*together(clips), 24)
    same = [one == other for one, other in zip(written, plain, strict=True)]
    assert same == [not len(context) for context in contexts], "a context changes what is written, and its lack nothing"


def test_without_contexts_all_is_as_before_to_the_bit(model, clips):
    none = [torch.zeros(0, dtype=torch.int64)] * len(clips)
    one, other = (model.embed(*together(clips), targets(model), contexts) for contexts in (none, ()))
    assert torch.equal(one[0], other[0])
    assert one[1].lengths == other[1].lengths
    assert torch.equal(one[1].token_ids, other[1].token_ids)


def test_the_limit_of_tokens_is_that_of_the_audio_whatever_the_context(model, clips, monkeypatch):
    monkeypatch.setattr(type(model.decoder), "end_ids", set())  # nothing ends a transcript but its limit
    contexts = [torch.tensor(model.decoder.prompt.context_ids("one " * 50).copy())] * len(clips)
    for known_of in ((), contexts):
        written = model.write(*together(clips), 400, contexts=known_of)
        assert all(one.cut_off for one in written)


def test_the_decoders_lengths_count_contexts(model, clips):
    from tiny_audio.data.synthetic import synthetic_batch

    batch = synthetic_batch(SECONDS, [ids.tolist() for ids in targets(model)])
    _, sequences, _ = model.embed(*model.encode(batch), batch.target_ids)
    assert decoder_lengths(model, batch) == sequences.lengths
    batch.context_ids = known(model)
    _, sequences, _ = model.embed(*model.encode(batch), batch.target_ids, batch.context_ids)
    assert decoder_lengths(model, batch) == sequences.lengths
