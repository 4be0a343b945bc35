"""Writing after several clips: who has ended leaves, and nothing that is left changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache

import decoder_zoo
from tiny_audio.config import SearchConfig
from tiny_audio.model import decoder as decoders
from tiny_audio.model import writing
from tiny_audio.model.decoder import load_decoder
from tiny_audio.model.reading import pad_left
from tiny_audio.model.writing import RoomyLayer, Rows, write_rows

LENGTHS = [40, 25, 31]
LIMITS = [9, 80, 30]  # the longest clip leaves first: its columns go, too


@pytest.fixture(scope="module", params=["llama", "mistral", "gemma3", "gemma2", "olmo3", "stablelm"])
def decoder(request, tmp_path_factory):
    folder = decoder_zoo.save(request.param, tmp_path_factory.mktemp(request.param))
    loaded = load_decoder(str(folder), None, "Transcribe the speech to text.", torch.float32)
    assert loaded.reading.rows_leave
    return loaded


def draw(decoder):
    torch.manual_seed(1)
    return [torch.randn(n, decoder.decoder_dim) * decoder.embedding_rms for n in LENGTHS]


def test_what_is_written_is_what_transformers_writes_token_by_token(decoder, monkeypatch):
    """Windows of 24 positions are left behind, and the room is used up more than once."""
    monkeypatch.setattr(writing, "ROOM", 16)
    clips, plain = draw(decoder), decoder.reading
    ours = decoder.generate(clips, LIMITS)
    monkeypatch.setattr(decoder, "_reading", replace(plain, rows_leave=False))
    assert ours == decoder.generate(clips, LIMITS)
    assert ours == [decoder.generate([clip], [limit])[0] for clip, limit in zip(clips, LIMITS, strict=True)]
    assert len({tuple(ids) for ids in ours}) == 3
    monkeypatch.setattr(decoder, "_reading", plain)
    for staying in (0.0, 1.0):  # nobody leaves; each one at once
        monkeypatch.setattr(writing, "STAYING", staying)
        assert ours == decoder.generate(clips, LIMITS)


@pytest.mark.parametrize("decoder", ["llama"], indirect=True)
def test_clips_that_have_ended_are_no_longer_computed(decoder):
    """One of three leaves at once; of six, it waits for a second one."""
    seen = []

    def watch(module, arguments, options):
        cache = next(value for value in options.values() if hasattr(value, "layers"))
        what = options.get("input_ids", options.get("inputs_embeds"))
        seen.append((what.shape[0], cache.get_seq_length() + what.shape[1]))

    hook = decoder.module.register_forward_pre_hook(watch, with_kwargs=True)
    clips = draw(decoder)
    rows = write_rows(Rows(decoder.module, *pad_left(clips), LENGTHS), [2, 5, 3], set(), None)
    hook.remove()
    assert [len(ids) for ids in rows] == [2, 5, 3]
    assert seen == [(3, 40), (3, 41), (2, 33), (1, 28), (1, 29)], "clips, and positions that are kept of them"
    hook = decoder.module.register_forward_pre_hook(watch, with_kwargs=True)
    limits = [1, 2, 3, 4, 4, 4]
    rows = write_rows(Rows(decoder.module, *pad_left(clips * 2), LENGTHS * 2), limits, set(), None)
    hook.remove()
    assert [len(ids) for ids in rows] == limits
    assert [clips for clips, _ in seen[5:]] == [6, 6, 4, 3]


@pytest.mark.parametrize("decoder", ["llama"], indirect=True)
@torch.no_grad()
def test_the_cache_holds_what_the_stock_one_holds_and_moves_seldom(decoder):
    clip = draw(decoder)[0][None]
    stock = DynamicCache(config=decoder.module.config)
    assert not any(isinstance(layer, RoomyLayer) for layer in stock.layers)
    rows = Rows(decoder.module, clip, torch.ones(1, 40, dtype=torch.long), [40])
    name = next(name for name in ("cache", "past_key_values") if name in rows._fixed)
    decoder.module(inputs_embeds=clip, use_cache=True, **{name: stock})
    where = set()
    for token in range(3, 23):
        rows.step(torch.tensor([token]), [0])
        decoder.module(input_ids=torch.tensor([[token]]), use_cache=True, **{name: stock})
        where.add(rows._cache.layers[1].keys.data_ptr())
    assert len(where) == 1
    for ours, expected in zip(rows._cache.layers, stock.layers, strict=True):
        torch.testing.assert_close(ours.keys, expected.keys)
        torch.testing.assert_close(ours.values, expected.values)


@torch.no_grad()
def test_rows_continue_any_row_of_their_clip_as_in_a_beam_search(decoder):
    clips = draw(decoder)
    rows = Rows(decoder.module, *pad_left(clips), LENGTHS)
    texts: list[tuple[int, list[int]]] = [(clip, []) for clip in range(3)]
    steps = [[0, 0, 1, 1, 2, 2], [1, 1, 3, 2, 4, 4], [1, 0, 2, 2, 5, 4], [0, 1, 4, 5], [1, 1, 2, 3], [0, 0, 0]]
    for number, origins in enumerate(steps):
        tokens = [3 + 7 * number + place for place in range(len(origins))]
        rows.step(torch.tensor(tokens), origins)
        texts = [(texts[row][0], [*texts[row][1], token]) for row, token in zip(origins, tokens, strict=True)]
        for logits, (clip, ids) in zip(rows.logits, texts, strict=True):
            alone = torch.cat((clips[clip], decoder.embed(torch.tensor(ids))))[None]
            expected = decoder.module(inputs_embeds=alone).logits[0, -1]
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("decoder", ["llama"], indirect=True)
@torch.no_grad()
def test_a_search_reads_once_what_is_the_same_for_several_clips(decoder, monkeypatch):
    one, other, _ = draw(decoder)
    steps = [([3, 4, 5, 6], [2, 0, 1, 2]), ([7, 8, 9], [3, 1, 0])]
    seen = []

    def follow(log_probs, step, *_):
        found = [log_probs()]
        for tokens, origins in steps:
            step(torch.tensor(tokens), origins)
            found.append(log_probs())
        return found

    monkeypatch.setattr(decoders, "search_rows", follow)
    hook = decoder.module.register_forward_pre_hook(
        lambda module, arguments, options: seen.append(options.get("inputs_embeds", options.get("input_ids")).shape),
        with_kwargs=True,
    )
    found = decoder.search([one, other, one], None, None, SearchConfig(beams=2), [5, 5, 5])
    hook.remove()
    assert [shape[:2] for shape in seen] == [(2, 40), (4, 1), (3, 1)]
    texts: list[tuple[torch.Tensor, list[int]]] = [(clip, []) for clip in (one, other, one)]
    for rows, (tokens, origins) in zip(found, [*steps, ([], [])], strict=True):
        for log_probs, (clip, ids) in zip(rows, texts, strict=True):
            alone = torch.cat((clip, decoder.embed(torch.tensor(ids, dtype=torch.long))))[None]
            expected = decoder.module(inputs_embeds=alone).logits[0, -1].log_softmax(-1)
            torch.testing.assert_close(log_probs, expected, rtol=1e-4, atol=1e-4)
        texts = [(texts[row][0], [*texts[row][1], token]) for row, token in zip(origins, tokens, strict=True)]
