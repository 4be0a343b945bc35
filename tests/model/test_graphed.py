"""Writing in a batch of a fixed size, as a CUDA graph needs it; the graph itself is tried in tests/gpu."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import decoder_zoo
from tiny_audio.cli import main
from tiny_audio.errors import UserError
from tiny_audio.model import decoder as decoders
from tiny_audio.model import reading
from tiny_audio.model.decoder import load_decoder
from tiny_audio.model.graphed import GraphedRows
from tiny_audio.model.writing import Rows

LENGTHS = [40, 25, 31]


@pytest.fixture(scope="module", params=["llama", "stablelm"])
def decoder(request, tmp_path_factory):
    folder = decoder_zoo.save(request.param, tmp_path_factory.mktemp(request.param))
    return load_decoder(str(folder), None, "Transcribe the speech to text.", torch.float32)


def draw(decoder):
    torch.manual_seed(1)
    return [torch.randn(n, decoder.decoder_dim) * decoder.embedding_rms for n in LENGTHS]


@pytest.fixture
def unrecorded(monkeypatch):
    """Decode in a batch of a fixed size, without the graph; return the most rows and steps of each batch."""
    asked = []

    def make(*given):
        asked.append(given[-2:])
        return GraphedRows(*given, record=False)

    monkeypatch.setattr(decoders, "GraphedRows", make)
    return asked


def test_the_same_is_written_greedily(decoder, unrecorded, monkeypatch):
    clips, limits = draw(decoder), [9, 80, 30]
    expected = decoder.generate(clips, limits)
    assert not unrecorded
    monkeypatch.setattr(decoder, "_reading", replace(decoder.reading, graphed=True))
    monkeypatch.setattr(decoder, "cuda_graph", True)
    assert decoder.generate(clips, limits) == expected
    assert unrecorded == [(3, 80)]


@torch.no_grad()
def test_rows_continue_any_row_of_their_clip_as_in_a_beam_search(decoder):
    """The keys and values do not move once there are as many rows as there will be."""
    clips = draw(decoder)
    fixed = GraphedRows(decoder.module, *reading.pad_left(clips), LENGTHS, 7, 6, record=False)
    rows = Rows(decoder.module, *reading.pad_left(clips), LENGTHS)
    torch.testing.assert_close(fixed.logits, rows.logits, rtol=1e-4, atol=1e-4)
    steps = [[0, 0, 1, 1, 2, 2], [1, 1, 3, 2, 4, 4], [1, 0, 2, 2, 5, 4], [0, 1, 4, 5], [1, 1, 2, 3], [0, 0, 0]]
    where = set()
    for number, origins in enumerate(steps):
        tokens = torch.tensor([3 + 7 * number + place for place in range(len(origins))])
        fixed.step(tokens, origins)
        rows.step(tokens, origins)
        torch.testing.assert_close(fixed.logits, rows.logits, rtol=1e-4, atol=1e-4)
        layer = fixed._cache.layers[1]
        where.add((*(room.data_ptr() for room in layer._rooms), fixed._allowed.data_ptr(), fixed._last.data_ptr()))
    assert len(where) == 1
    assert fixed._allowed.shape == (7, 1, 1, 48)


def test_a_window_would_not_be_applied_so_no_graph_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "GraphedRows", lambda *given: GraphedRows(*given[:-1], record=False))
    for name, allowed in (("llama", True), ("mistral", False), ("gemma3", False)):
        folder = decoder_zoo.save(name, tmp_path / name)
        found = load_decoder(str(folder), None, "Transcribe.", torch.float32)
        text = found.embed(torch.tensor(found.prompt.prefix_ids))
        assert reading.find_reading(found.module, text, cuda_graph=True).graphed == allowed, name
        assert not reading.find_reading(found.module, text).graphed


class Stuck(GraphedRows):
    """Its recorded steps, which begin with the second, give the logits of that one again and again."""

    def __init__(self, *given):
        *fixed, self._stuck = given
        super().__init__(*fixed, record=False)

    def step(self, tokens, rows):
        out = self._out if self._num_written > 1 else None
        super().step(tokens, rows)
        if self._stuck and out is not None:
            self.logits = self._out = out[: len(rows)]


def test_a_graph_that_replays_something_else_is_not_used(decoder, monkeypatch):
    text = decoder.embed(torch.tensor(decoder.prompt.prefix_ids))
    monkeypatch.setattr(reading, "GraphedRows", lambda *given: GraphedRows(*given[:-1], record=False))
    assert reading.find_reading(decoder.module, text, cuda_graph=True).graphed
    monkeypatch.setattr(reading, "GraphedRows", Stuck)
    assert not reading.find_reading(decoder.module, text, cuda_graph=True).graphed


def test_a_graph_needs_a_cuda_device(decoder, run_settings, tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="cuda_graph=true needs a CUDA device, and the models run on cpu"):
        decoder.use_cuda_graph(True)
    assert not decoder.cuda_graph
    monkeypatch.chdir(tmp_path)
    assert main(["train", *run_settings, "hardware.cuda_graph=true"]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err
