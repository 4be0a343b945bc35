"""The decoder: packed clips do not see each other, and generation is greedy whatever the model's own settings."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from tiny_audio.errors import UserError
from tiny_audio.model.decoder import Decoder, load_decoder


@pytest.fixture(scope="module")
def decoder(tiny_models):
    return load_decoder(str(tiny_models.qwen3), None, "Transcribe the speech to text.", torch.float32)


def test_packed_logits_equal_each_clip_alone(decoder):
    torch.manual_seed(0)
    lengths = [7, 31, 12, 31]
    clips = [torch.randn(n, decoder.decoder_dim) for n in lengths]
    positions = torch.tensor([3, 6, 20, 37, 40, 49, 80])
    packed = decoder.logits(torch.cat(clips), lengths, positions)
    alone = torch.cat([decoder.module(inputs_embeds=clip[None]).logits[0] for clip in clips])
    torch.testing.assert_close(packed, alone[positions], atol=1e-4, rtol=0)


def test_packing_really_separates_the_clips(decoder):
    """The same row without the layout gives something else, so the test above can fail."""
    torch.manual_seed(0)
    clips = [torch.randn(n, decoder.decoder_dim) for n in (7, 31)]
    row = torch.cat(clips)
    one_clip = decoder.logits(row, [38], torch.tensor([20]))
    assert (one_clip - decoder.logits(row, [7, 31], torch.tensor([20]))).abs().max() > 1e-2


def test_gradients_through_the_packed_decoder_equal_the_padded_ones(decoder):
    torch.manual_seed(1)
    clips = [torch.randn(n, decoder.decoder_dim, requires_grad=True) for n in (9, 14)]
    targets = torch.tensor([5, 6, 7])
    cross_entropy(decoder.logits(torch.cat(clips), [9, 14], torch.tensor([8, 21, 22])), targets).backward()
    packed = [clip.grad.clone() for clip in clips]
    for clip in clips:
        clip.grad = None
    short, long = (decoder.module(inputs_embeds=clip[None]).logits[0] for clip in clips)
    cross_entropy(torch.stack([short[8], long[12], long[13]]), targets).backward()
    for ours, clip in zip(packed, clips, strict=True):
        torch.testing.assert_close(ours, clip.grad, atol=1e-5, rtol=1e-4)


def test_generation_equals_an_obvious_greedy_loop_alone_and_in_a_batch(decoder):
    torch.manual_seed(2)
    clips = [torch.randn(n, decoder.decoder_dim) for n in (5, 23, 11)]
    limits = [12, 6, 20]
    together = decoder.generate(clips, limits)
    for clip, limit, written in zip(clips, limits, together, strict=True):
        assert decoder.generate([clip], [limit]) == [written]
        ids: list[int] = []
        with torch.no_grad():
            while len(ids) < limit:
                embeddings = torch.cat([clip, decoder.embed(torch.tensor(ids, dtype=torch.long))])
                token = int(decoder.module(inputs_embeds=embeddings[None]).logits[0, -1].argmax())
                if token in decoder.end_ids:
                    break
                ids.append(token)
        assert written == ids


def test_sampling_settings_of_the_model_are_not_inherited(decoder):
    settings = decoder.module.generation_config
    assert settings.do_sample is False
    assert settings.temperature in (None, 1.0)
    assert settings.repetition_penalty in (None, 1.0)
    assert decoder.end_ids == {0, 2}


def test_prompt_is_the_rendered_template_around_the_audio(decoder):
    prompt = decoder.prompt
    tokenizer = prompt.tokenizer
    assert tokenizer.decode(prompt.prefix_ids) == "<|im_start|>user\n"
    assert tokenizer.decode(prompt.suffix_ids) == (
        "\nTranscribe the speech to text.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    ids = prompt.target_ids("one two")
    assert ids[-1] == tokenizer.eos_token_id
    assert prompt.decode(ids) == "one two"


def test_a_tokenizer_without_a_chat_template_is_refused(tiny_models, tmp_path):
    import shutil

    folder = shutil.copytree(tiny_models.qwen3, tmp_path / "plain")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="has no chat template"):
        load_decoder(str(folder), None, "Transcribe.", torch.float32)


@pytest.mark.parametrize("rows_at_once", [1, 2, 3, 100])
def test_loss_a_few_rows_at_a_time_is_that_of_all_logits(decoder, monkeypatch, rows_at_once):
    torch.manual_seed(3)
    row, targets = torch.randn(26, decoder.decoder_dim), torch.tensor([4, 2, 9, 7, 1])
    where = ([9, 17], torch.tensor([7, 8, 20, 21, 25]))
    monkeypatch.setattr("tiny_audio.model.decoder.MAX_LOGITS", rows_at_once * 320)
    results = []
    for ours in (True, False):
        read = row.clone().requires_grad_()
        if ours:
            loss = decoder.loss(read, *where, targets)
        else:
            loss = cross_entropy(decoder.logits(read, *where), targets, reduction="sum")
        (loss * 0.3).backward()
        results.append((loss.detach(), read.grad))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(decoder.loss(row, *where, targets), results[0][0])


def test_logits_that_are_scaled_after_the_head_are_scaled_in_the_loss(tiny_models, decoder):
    from transformers import GraniteConfig, GraniteForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = GraniteConfig(vocab_size=320, logits_scaling=8.0, **sizes, attn_implementation="packed")
    scaled = Decoder(GraniteForCausalLM(config), decoder.prompt, "granite")
    row, where, targets = torch.randn(9, 32), ([4, 5], torch.tensor([2, 8])), torch.tensor([5, 6])
    expected = cross_entropy(scaled.logits(row, *where), targets, reduction="sum")
    torch.testing.assert_close(scaled.loss(row, *where, targets), expected)
    head = scaled.module.get_output_embeddings()
    bare = head(scaled.module.model(inputs_embeds=row[None, :4]).last_hidden_state[0, 2:3])
    assert not torch.allclose(bare, scaled.logits(row[:4], [4], torch.tensor([2])), rtol=0.1)


def test_fp16_computes_all_logits_at_once(decoder, monkeypatch):
    """Its loss scale must be there before the gradient is worked out."""
    half = copy.deepcopy(decoder).half()
    read = (torch.randn(6, decoder.decoder_dim) * 0.1).half().requires_grad_()
    monkeypatch.setattr("tiny_audio.model.decoder.TargetLoss.apply", None)
    half.loss(read, [6], torch.tensor([4, 5]), torch.tensor([1, 2])).backward()
    assert read.grad.isfinite().all()
