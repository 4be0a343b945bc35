"""Whatever class a decoder is of: a clip in a batch is the clip alone, when it is read, taught and written after.

What is expected comes of the stock model with its plainest attention, one clip at a time.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForImageTextToText

import decoder_zoo
from tiny_audio.errors import UserError
from tiny_audio.model.decoder import load_decoder
from tiny_audio.model.packing import PackedLayout, packed_attention
from tiny_models import tokenizer

DOCS = Path(__file__).parents[2] / "docs/models.md"
LENGTHS = [40, 25, 31]  # all longer than the windows, the first two padded when they are written after
MORE = decoder_zoo.MORE_PACKED | decoder_zoo.MORE_PADDED
ALL = [
    *decoder_zoo.PACKED,
    *decoder_zoo.PADDED,
    *(pytest.param(name, marks=pytest.mark.slow) for name, kind in MORE.items() if kind.is_known),
]


@pytest.fixture(scope="module", params=ALL)
def named(request, tmp_path_factory):
    folder = decoder_zoo.save(request.param, tmp_path_factory.mktemp(request.param))
    return request.param, load_decoder(str(folder), None, "Transcribe the speech to text.", torch.float32)


@pytest.fixture(scope="module")
def plain(named):
    """The same model, as it comes: its logits of one clip."""
    module = decoder_zoo.make(named[0])
    return lambda clip: module(inputs_embeds=clip[None], use_cache=False).logits[0]


def draw(decoder):
    torch.manual_seed(1)
    return [torch.randn(n, decoder.decoder_dim) * decoder.embedding_rms for n in LENGTHS]


def test_it_is_read_as_the_table_in_the_docs_says(named):
    name, decoder = named
    kind = decoder_zoo.ZOO[name]
    (row,) = (line for line in DOCS.read_text().splitlines() if line.startswith("|") and f"`{kind.model_type}`" in line)
    assert ("| padded |" in row, "| packed |" in row) == (kind.padded is not None, kind.padded is None)
    assert decoder.reading.packed == (kind.padded is None)
    assert decoder.reading.reason == (kind.padded or "")
    assert decoder.reading.pads_left == kind.pads_left
    assert decoder.reading.rows_leave == (name not in decoder_zoo.STATEFUL)


def test_loss_and_gradient_of_a_batch_are_those_of_each_clip_alone(named, plain):
    _, decoder = named
    row = torch.cat(draw(decoder)).requires_grad_()
    positions, targets = torch.tensor([10, 39, 50, 70, 95]), torch.tensor([5, 6, 7, 8, 9])
    ours = decoder.loss(row, LENGTHS, positions, targets)
    (gradient,) = torch.autograd.grad(ours, row)
    logits = torch.cat([plain(clip) for clip in row.split(LENGTHS)])[positions]
    expected = cross_entropy(logits, targets, reduction="sum")
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, row)[0], atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(decoder.logits(row, LENGTHS, positions), logits, atol=1e-4, rtol=1e-4)


def test_what_is_written_after_a_batch_is_what_is_written_after_each_clip_alone(named, plain):
    _, decoder = named
    clips, limits = draw(decoder), [6, 9, 4]
    together = decoder.generate(clips, limits)
    for clip, limit, written in zip(clips, limits, together, strict=True):
        assert decoder.generate([clip], [limit]) == [written]
        ids: list[int] = []
        with torch.no_grad():
            while len(ids) < limit:
                token = int(plain(torch.cat([clip, decoder.embed(torch.tensor(ids, dtype=torch.long))]))[-1].argmax())
                if token in decoder.end_ids:
                    break
                ids.append(token)
        assert written == ids


@torch.no_grad()
def test_embeddings_are_what_the_model_itself_makes_of_tokens_and_their_size_is_known(named):
    name, decoder = named
    tokens, module = torch.arange(3, 15), decoder_zoo.make(name)
    embedded = decoder.embed(tokens)
    torch.testing.assert_close(
        module(inputs_embeds=embedded[None], use_cache=False).logits, module(tokens[None], use_cache=False).logits
    )
    everything = decoder.embed(torch.arange(320)).square().mean().sqrt()
    assert decoder.embedding_rms == pytest.approx(float(everything), rel=1e-5)


def test_scores_are_capped_as_the_model_caps_them(tmp_path):
    """`sdpa` leaves that out in silence in some versions of transformers, and small scores hardly show it."""
    decoder = load_decoder(str(decoder_zoo.save("gemma2", tmp_path)), None, "Transcribe.", torch.float32)
    assert decoder.reading.attention == decoder.module.config._attn_implementation == "eager"
    rows = [torch.randn(1, 4, 5, 8)] * 3
    for attention in ({}, {"packed_layout": PackedLayout.of([5], torch.device("cpu"))}):
        with pytest.raises(NotImplementedError, match="packed attention has no softcap"):
            packed_attention(decoder.module, *rows, None, softcap=50.0, **attention)


@pytest.mark.parametrize(
    ("kind", "text", "vision"),
    [
        ("gemma3", decoder_zoo.PACKED["gemma3"].options, {"image_size": 32, "patch_size": 8}),
        ("qwen3_5", decoder_zoo.PADDED["qwen3_5"].options, {"depth": 1, "num_heads": 2, "out_hidden_size": 32}),
    ],
)
def test_of_a_model_that_also_sees_the_language_model_is_read(kind, text, vision, tmp_path):
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(kind, text_config=decoder_zoo.SIZES | text, vision_config=small | vision)
    torch.manual_seed(0)
    whole = AutoModelForImageTextToText.from_config(config).eval()
    whole.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    decoder = load_decoder(str(tmp_path), None, "Transcribe.", torch.float32)
    assert not any("vision" in name or "visual" in name for name, _ in decoder.module.named_parameters())
    tokens = torch.arange(3, 23)
    with torch.no_grad():
        ours = decoder.logits(decoder.embed(tokens), [12, 8], torch.arange(12))
        torch.testing.assert_close(ours, whole(tokens[None, :12]).logits[0], atol=1e-4, rtol=1e-4)


def test_its_weights_may_lie_under_the_names_of_older_versions(tmp_path):
    folder = decoder_zoo.save("llama", tmp_path)
    weights = load_file(folder / "model.safetensors")
    assert "lm_head.weight" in weights
    older = {f"language_model.{name}": weight for name, weight in weights.items()}
    save_file(older, folder / "model.safetensors", {"format": "pt"})
    found = load_decoder(str(folder), None, "Transcribe.", torch.float32).module.state_dict()
    for name, weight in weights.items():
        assert torch.equal(found[name], weight), name


def test_a_weight_that_is_missing_is_an_error(tmp_path):
    """`from_pretrained` only warns, and goes on with a random one."""
    folder = decoder_zoo.save("llama", tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"cannot be read: 1 weights are missing .* model.layers.1.mlp.up_proj.weight"):
        load_decoder(str(folder), None, "Transcribe.", torch.float32)


def test_the_size_of_scaled_embeddings_is_not_that_of_their_table(tmp_path):
    """Gemma multiplies by the root of the width."""
    decoder = load_decoder(str(decoder_zoo.save("gemma3", tmp_path)), None, "Transcribe.", torch.float32)
    table = decoder.module.get_input_embeddings().weight.square().mean().sqrt()
    assert decoder.embedding_rms == pytest.approx(float(table) * 32**0.5, rel=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma2", "recurrent_gemma"])
def test_a_line_is_said_of_a_decoder_that_is_not_read_packed_and_none_of_another(name, tmp_path, caplog):
    folder = decoder_zoo.save(name, tmp_path)
    with caplog.at_level(logging.INFO):
        decoder = load_decoder(str(folder), None, "Transcribe.", torch.float32)
        assert [decoder.reading, decoder.reading]
    said = [line for line in caplog.messages if not line.startswith("Loading")]
    padded = "Decoder: a {} model of this kind reads clips as padded batches, since it cannot read packed clips: {}."
    lengths = "; transcripts are written for clips of equal length at a time"
    assert said == {
        "llama": [],
        "gemma2": [padded.format("gemma2", "packed attention has no softcap")],
        "recurrent_gemma": [padded.format("recurrent_gemma", f"clips affect each other{lengths}")],
    }[name]  # fmt: skip


def test_a_model_that_wants_tokens_besides_embeddings_is_refused_in_a_line(tmp_path):
    folder = decoder_zoo.save(*decoder_zoo.REFUSED, tmp_path)
    message = "a gemma4_text model of this kind cannot be used; it does not read audio tokens: It seems like"
    decoder = load_decoder(str(folder), None, "Transcribe.", torch.float32)
    with pytest.raises(UserError, match=message) as caught:
        decoder.reading  # noqa: B018
    assert "\n" not in str(caught.value)


def test_a_model_that_sees_the_future_is_refused(tmp_path, monkeypatch):
    """Padding on the right would be seen, and nothing could be taught."""
    folder = decoder_zoo.save("gpt_neo", tmp_path)
    from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoSelfAttention

    def attend(self, query, key, value, attention_mask=None):
        weights = torch.softmax(query @ key.transpose(-1, -2), dim=-1)
        return weights @ value, weights

    monkeypatch.setattr(GPTNeoSelfAttention, "_attn", attend)
    decoder = load_decoder(str(folder), None, "Transcribe.", torch.float32)
    with pytest.raises(UserError, match="clips as if they were alone: clips are read differently than alone"):
        decoder.reading  # noqa: B018


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    folder = decoder_zoo.save("llama", tmp_path / "model")
    config = (folder / "config.json").read_text()
    ours = config.replace('"model_type": "llama"', '"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}')
    assert ours != config
    (folder / "config.json").write_text(ours)
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\n")
    with pytest.raises(UserError, match=r"needs code that comes with it, which is never run; use a model") as caught:
        load_decoder(str(folder), None, "Transcribe.", torch.float32)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_package_that_a_tokenizer_wants_is_named_in_a_line(tmp_path, monkeypatch):
    def wants(*args, **kwargs):
        raise ImportError("\nLlamaTokenizer requires the SentencePiece library but it was not found.\nMore lines.\n")

    folder = decoder_zoo.save("llama", tmp_path)
    monkeypatch.setattr("tiny_audio.model.decoder.AutoTokenizer.from_pretrained", wants)
    with pytest.raises(UserError, match=r"cannot be read: LlamaTokenizer requires the SentencePiece .* found\.$"):
        load_decoder(str(folder), None, "Transcribe.", torch.float32)
