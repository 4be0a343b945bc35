"""The loop guard: what is a loop and what is not, and that a clip's end never depends on its neighbors."""

from __future__ import annotations

import random

import pytest
import torch

import tiny_models as make
from tiny_audio.model.loop_guard import LoopGuard, find_loop


@pytest.mark.parametrize("period", [1, 2, 3, 5, 12, 40])
def test_what_is_repeated_is_kept_once(period):
    before, said = [1000, 1001, 1002], list(range(period))
    tokens = before + said * 13
    first = next(size for size in range(len(tokens) + 1) if find_loop(tokens[:size]) is not None)
    assert len(before) + 4 * period <= first < len(tokens)
    assert find_loop(tokens[:first]) == len(before) + period


def test_a_loop_in_no_regular_order_is_found():
    rng = random.Random(0)
    words = [[298, 314, 510], [298, 274], [298, 274, 89, 269]]
    tokens = list(range(500, 520)) + [token for _ in range(40) for token in rng.choice(words)]
    kept = find_loop(tokens)
    assert kept is not None
    assert 20 <= kept <= 26


@pytest.mark.parametrize(
    "tokens",
    [
        [],
        [7] * 6,  # no no no no no no
        [1, 2, 3, 4] * 3 + [5],
        list(range(200)),
        [token for i in range(60) for token in (i, 1000)],  # each word and a space
    ],
)
def test_what_people_say_twice_is_no_loop(tokens):
    assert all(find_loop(tokens[:size]) is None for size in range(len(tokens) + 1))


def test_clips_end_apart():
    guard = LoopGuard({2}, [50, 50, 5])
    rows = torch.tensor([[7] * 12, [2] + [0] * 11, [7] * 12])
    for size in range(1, 12):
        assert guard(rows[:, :size], None).tolist() == [False, True, size > 5]
    assert guard(rows, None).tolist() == [True, True, True]
    assert guard.kept == {0: 1}, "padding is no loop, nor is what is beyond a clip's own limit"


def test_a_model_that_loops_is_stopped_alone_as_in_a_batch(tiny_models):
    model = make.build(tiny_models, "mlp").eval()
    generator = torch.Generator().manual_seed(0)
    lengths = [100, 160, 60]
    frames = torch.randn(sum(lengths), model.encoder.encoder_dim, generator=generator)
    head = model.decoder.module.get_output_embeddings().weight
    plain = model.write(frames, lengths, 60)
    assert not any(written.looped for written in plain)
    with torch.no_grad():
        head[:] = 0
        head[70] = 1e-3 * torch.ones_like(head[70])
        head[71] = -head[70]
    unguarded = model.write(frames, lengths, 60)
    together = model.write(frames, lengths, 60, guarded=True)
    alone = [model.write(part, [len(part)], 60, guarded=True)[0] for part in frames.split(lengths)]
    assert together == alone
    assert all(written.cut_off and not written.looped for written in unguarded)
    assert all(written.looped and not written.cut_off for written in together)
    assert all(len(short.text) < len(long.text) for short, long in zip(together, unguarded, strict=True))
