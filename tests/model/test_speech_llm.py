"""The composition, against the obvious way of computing it, and free of its neighbors' influence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tiny_audio.audio import pad_waveforms
from tiny_audio.config import PROJECTORS, ModelConfig, ProjectorConfig
from tiny_audio.data.loader import Batch
from tiny_audio.data.synthetic import synthetic_batch
from tiny_audio.errors import ConfigError, UserError
from tiny_audio.model.build import build_speech_llm
from tiny_audio.model.masking import HIDDEN_SPAN, draw_hidden, mask_frames
from tiny_audio.model.speech_llm import COMPILED_FORMS, SpeechLLM
from tiny_models import build

SECONDS = (1.0, 0.5, 3.1, 30.0, 0.6, 0.9, 7.9, 2.2, 1.4, 0.8, 12.0, 5.3, 0.7, 4.4, 1.9, 2.7)
TRANSCRIPTS = ("one two", "three", "six seven one four", "", "two") * 3 + ("five",)


@pytest.fixture(scope="module", params=PROJECTORS)
def model(request, tiny_models):
    return build(tiny_models, request.param)


@pytest.fixture(scope="module")
def clips():
    """Waveforms, their lengths, and the targets of sixteen clips."""
    rng = np.random.default_rng(0)
    return pad_waveforms([(rng.standard_normal(int(s * 16_000)) * 0.1).astype(np.float32) for s in SECONDS])


def targets(model: SpeechLLM, count: int = len(SECONDS)) -> list[torch.Tensor]:
    return [torch.tensor(model.decoder.prompt.target_ids(text)) for text in TRANSCRIPTS[:count]]


def alone(clips, i: int):
    waveforms, num_samples = clips
    return waveforms[i : i + 1, : num_samples[i]], num_samples[i : i + 1]


def naive_loss(model, clips, wanted):
    """Each clip alone, the stock causal LM with labels over the whole sequence, mean over all target tokens."""
    losses, balance = [], []
    for i, target in enumerate(wanted):
        projected, _ = model.audio_tokens(*model.encoder(*alone(clips, i)))
        embed, prompt = model.decoder.embed, model.decoder.prompt
        tokens = projected.tokens
        parts = (embed(torch.tensor(prompt.prefix_ids)), tokens, embed(torch.tensor(prompt.suffix_ids)), embed(target))
        row = torch.cat(parts)[None]
        labels = torch.full((1, row.shape[1]), -100)
        labels[0, -len(target) :] = target
        losses.append(model.decoder.module(inputs_embeds=row, labels=labels).loss * len(target))
        balance.append(projected.auxiliary)
    return sum(losses) / sum(map(len, wanted)), balance


def test_loss_and_gradients_equal_the_obvious_way(model, clips):
    weights, few = dict(model.projector.named_parameters()), 3
    some = clips[0][:few, : clips[1][:few].max()], clips[1][:few]
    wanted = targets(model, few)
    model.zero_grad()
    found = model.loss(*model.encoder(*some), wanted)
    loss = found.cross_entropy / found.num_targets
    loss.backward()
    ours = {name: weight.grad for name, weight in weights.items()}
    model.zero_grad()
    expected, _ = naive_loss(model, some, wanted)
    expected.backward()
    assert found.num_targets == sum(map(len, wanted))
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
    for name, weight in weights.items():
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
        torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=1e-3, msg=lambda text, name=name: name + text)


def test_only_the_projector_has_gradients_and_trains(model, clips):
    model.train()
    model.loss(*model.encoder(*alone(clips, 0)), targets(model, 1)).objective.backward()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None} == {"projector"}
    assert model.projector.training
    assert not model.encoder.module.training
    assert not model.decoder.module.training
    model.eval()


def test_a_clip_alone_and_among_fifteen_others_gives_the_same_audio_tokens_and_transcript(model, clips):
    model.eval()
    frames, lengths = model.encoder(*clips)
    projected, counts = model.audio_tokens(frames, lengths)
    written = model.transcribe(frames, lengths, 24)
    assert counts == [n // 1280 for n in clips[1].tolist()]
    assert len(set(written)) > 7, "the clips are told apart"
    for i, clip in enumerate(projected.tokens.split(counts)):
        its_frames = model.encoder(*alone(clips, i))
        torch.testing.assert_close(clip, model.audio_tokens(*its_frames)[0].tokens, atol=1e-4, rtol=0)
        assert model.transcribe(*its_frames, 24) == [written[i]]


def test_an_empty_batch_has_a_loss_of_zero_that_reaches_every_weight(model):
    """A process whose clips could all not be read must still take part in the step."""
    model.zero_grad()
    loss = model(Batch(torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64), [], [], [], [], []))
    loss.objective.backward()
    assert loss.objective == 0
    assert loss.expert_usage.shape == (model.projector.num_experts,)
    assert all(weight.grad is not None and not weight.grad.any() for weight in model.projector.parameters())


def test_calibration_brings_the_output_to_the_embeddings_scale(model, clips):
    frames, lengths = model.encoder(*clips)
    model.projector.calibrate([(frames, lengths)], model.decoder.embedding_rms)
    tokens = model.projector.eval()(frames, lengths).tokens.detach()
    assert float(tokens.square().mean().sqrt()) == pytest.approx(model.decoder.embedding_rms, rel=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input_dim": 1024}, "model.projector_config.input_dim is 1024, but the encoder is 64 wide"),
        ({"output_dim": 896}, "model.projector_config.output_dim is 896, but the decoder is 48 wide"),
    ],
)
def test_a_width_that_disagrees_with_the_models_is_refused(tiny_models, settings, message):
    config = ModelConfig(
        encoder=str(tiny_models.glm_asr), decoder=str(tiny_models.qwen3), projector_config=ProjectorConfig(**settings)
    )
    with pytest.raises(UserError, match=message):
        build_speech_llm(config, torch.float32)


@pytest.mark.parametrize(
    "kind", ["mlp", *(pytest.param(k, marks=pytest.mark.slow) for k in ("mosa", "moe", "qformer"))]
)
def test_bf16_gives_nearly_the_loss_of_fp32(tiny_models, clips, kind):
    """As on a GPU: frozen models in bf16, the projector in fp32 under autocast."""
    full, half = build(tiny_models, kind), build(tiny_models, kind, torch.bfloat16)
    half.projector.load_state_dict(full.projector.state_dict())
    assert half.encoder.dtype == torch.bfloat16
    assert half.encoder.fingerprint == full.encoder.fingerprint
    wanted = targets(full)
    with torch.autocast("cpu", torch.bfloat16):
        loss = half.loss(*half.encoder(*clips), wanted)
    loss.objective.backward()
    assert loss.cross_entropy.dtype == loss.auxiliary.dtype == torch.float32
    assert all(weight.grad.dtype == torch.float32 for weight in half.projector.parameters())
    expected = full.loss(*full.encoder(*clips), wanted)
    torch.testing.assert_close(loss.cross_entropy, expected.cross_entropy, rtol=0.02, atol=0)


# torch looks whether a hidden state has a gradient while it traces
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_layers_give_the_same_loss_and_gradients_at_other_lengths_too(tiny_models, clips, monkeypatch):
    """Traced and differentiated ahead of time as for a GPU, but run by torch's own kernels: no compiler is needed."""
    traced, plain = build(tiny_models, "mlp"), build(tiny_models, "mlp")
    compile_with = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **options: compile_with(self, backend="aot_eager", **options)
    )
    traced.compile_layers()
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=False):
        for few in (5, 3, 16):
            some, wanted = (clips[0][:few, : clips[1][:few].max()], clips[1][:few]), targets(plain, few)
            for model in (traced, plain):
                model.zero_grad()
                loss = model.loss(*model.encoder(*some), wanted)
                loss.objective.backward()
            ours, theirs = ([p.grad for p in model.projector.parameters()] for model in (traced, plain))
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
            frames = plain.encoder(*some)
            assert traced.transcribe(*frames, 12) == plain.transcribe(*frames, 12)
    frames = torch._dynamo.utils.counters["frames"]
    assert frames["ok"] >= 2, "something was compiled"


# Hiding audio tokens


def runs_of(hidden: torch.Tensor, count: int) -> list[int]:
    """Lengths of the spans of neighbors, the obvious way."""
    spans, chosen = [0], set(hidden.tolist())
    for i in range(count):
        spans[-1] += i in chosen
        if i not in chosen and spans[-1]:
            spans.append(0)
    return [span for span in spans if span]


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_the_share_of_hidden_tokens_is_the_one_asked_for_in_short_spans(share):
    torch.manual_seed(0)
    drawn = [draw_hidden([3000], share) for _ in range(40)]
    assert sum(map(len, drawn)) / 120_000 == pytest.approx(share, rel=0.05)
    spans = [span for hidden in drawn for span in runs_of(hidden, 3000)]
    assert set(spans) == set(range(1, HIDDEN_SPAN + 1))
    for length in range(1, HIDDEN_SPAN + 1):
        assert spans.count(length) / len(spans) == pytest.approx(1 / HIDDEN_SPAN, rel=0.2)
    first = sum(
        bool((hidden < 100).any() and hidden[0] == 0) for hidden in (draw_hidden([100], share) for _ in range(2000))
    )
    assert first / 2000 == pytest.approx(share, abs=0.04), "the first token is hidden as often as any"


def test_no_span_hides_more_than_a_fifth_of_a_clip():
    torch.manual_seed(0)
    counts, longest = [1, 2, 12, 40, 4, 10, 30], 25
    seen = [set() for _ in counts]
    for _ in range(300):
        hidden = torch.zeros(sum(counts), dtype=torch.bool)
        hidden[draw_hidden(counts, 0.2, longest)] = True
        for spans, clip in zip(seen, hidden.split(counts), strict=True):
            spans.update(runs_of(clip.nonzero().flatten(), len(clip)))
    assert [max(spans, default=0) for spans in seen] == [0, 0, 2, 8, 0, 2, 6]


def test_hidden_tokens_are_zeros_in_training_and_nothing_else_changes(model, clips, monkeypatch):
    read, few = [], 4  # what the decoder reads
    compute = type(model.decoder).loss

    def loss(decoder, embeddings, *rest):
        read.append(embeddings.detach())
        return compute(decoder, embeddings, *rest)

    monkeypatch.setattr(type(model.decoder), "loss", loss)
    frames, lengths = model.encoder(clips[0][:few, : clips[1][:few].max()], clips[1][:few])
    wanted, counts = targets(model, few), [model.projector.num_tokens(n) for n in lengths]
    written = model.eval().transcribe(frames, lengths, 8)
    before = torch.random.get_rng_state()
    plain = model.train().loss(frames, lengths, wanted)
    assert torch.equal(torch.random.get_rng_state(), before), "off, and without dropout: no number is drawn"

    monkeypatch.setattr(model, "audio_token_dropout", 0.3)
    torch.manual_seed(5)
    hidden = draw_hidden(counts, 0.3)
    torch.manual_seed(5)
    found = model.loss(frames, lengths, wanted)
    found.objective.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.projector.parameters())
    model.zero_grad()
    model.eval().loss(frames, lengths, wanted)
    assert model.train().transcribe(frames, lengths, 8) == written
    model.eval()

    starts = torch.tensor([0, *counts]).cumsum(0)
    prefix, suffix = (len(ids) for ids in (model.decoder.prompt.prefix_ids, model.decoder.prompt.suffix_ids))
    zero = set()
    for token in hidden.tolist():  # where it stands in the packed row
        clip = int((starts[1:] <= token).sum())
        zero.add(token + prefix * (clip + 1) + suffix * clip + sum(len(ids) for ids in wanted[:clip]))
    assert 0 < len(zero) < sum(counts)
    whole, masked, evaluated = read
    for i, row in enumerate(masked):
        assert torch.equal(row, torch.zeros_like(row) if i in zero else whole[i]), i
    assert torch.equal(evaluated, whole)
    assert found.num_targets == plain.num_targets
    assert found.cross_entropy != plain.cross_entropy


def test_no_gradient_comes_through_a_hidden_token(tiny_models, clips, monkeypatch):
    model = build(tiny_models, "mlp").train()
    model.audio_token_dropout = 0.2
    frames, lengths = model.encoder(*alone(clips, 0))
    frames.requires_grad_()
    count = model.projector.num_tokens(lengths[0])
    monkeypatch.setattr("tiny_audio.model.speech_llm.draw_hidden", lambda counts, share: torch.tensor([2, 3]))
    model.loss(frames, lengths, targets(model, 1)).objective.backward()
    reached = frames.grad[: 4 * count].reshape(count, -1).abs().sum(1) > 0
    assert reached.tolist() == [i not in (2, 3) for i in range(count)]


@pytest.mark.parametrize("share", [-0.1, 0.6, float("nan")])
@pytest.mark.parametrize("name", ["audio_token_dropout", "frame_masking", "channel_masking"])
def test_a_share_that_cannot_be_is_refused(name, share):
    with pytest.raises(ConfigError, match=f"{name} must be between"):
        ModelConfig(**{name: share})


def test_frames_and_channels_are_masked_in_their_shares_and_by_the_seed():
    frames, lengths = torch.ones(4000, 64), [1000] * 4
    torch.manual_seed(3)
    masked = mask_frames(frames, lengths, 0.1, 0.25)
    torch.manual_seed(3)
    assert torch.equal(mask_frames(frames, lengths, 0.1, 0.25), masked)
    hidden = (masked == 0).all(1)
    assert 0.05 < hidden.float().mean() < 0.15
    assert int(torch.diff(hidden.int()).abs().sum()) < hidden.sum() / 3  # in spans
    clips = [clip[~gone] for clip, gone in zip(masked.split(lengths), hidden.split(lengths), strict=True)]
    kept = torch.stack([clip[0] for clip in clips])
    assert all(torch.equal(clip, clip[:1].expand_as(clip)) for clip in clips), "all frames of a clip lose the same"
    assert len({tuple(row.tolist()) for row in kept}) == 4, "other channels in each clip"
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / (1 - 0.25)])
    assert 0.1 < (kept == 0).float().mean() < 0.4


def test_frames_are_masked_in_training_alone(tiny_models, clips):
    model = build(tiny_models, "mlp")
    frames, lengths = model.encoder(*alone(clips, 0))
    plain = model.eval().audio_tokens(frames, lengths)[0].tokens
    model.frame_masking = model.channel_masking = 0.3
    assert torch.equal(model.audio_tokens(frames, lengths)[0].tokens, plain)
    assert not torch.equal(model.train().audio_tokens(frames, lengths)[0].tokens, plain)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # Dynamo looks at it, and warnings are errors here
def test_compiled_layers_serve_batches_of_any_size(tiny_models, monkeypatch):
    """Every layer of every batch runs compiled, and after one batch of each kind nothing is compiled any more."""
    graphs, ran = [], []

    def eager(graph, inputs):
        graphs.append(graph)
        return lambda *arguments: ran.append(graph) or graph.forward(*arguments)

    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **more: compile_module(self, backend=eager, **more))
    torch.compiler.reset()
    model = build(tiny_models, "mlp")
    model.compile_layers()
    layers = len(model.encoder.layers) + len(model.decoder.layers)

    def read(*seconds: float) -> None:
        batch = synthetic_batch(list(seconds), [[5, 6, 2]] * len(seconds), rng=np.random.default_rng(0))
        for training in (True, False):
            before = len(ran)
            if training:
                model.train()(batch).cross_entropy.backward()
            else:
                model.eval().assess(batch, max_new_tokens=3)
            assert len(ran) - before == layers, "each layer, and none while tokens are written"

    read(1.0, 2.0, 3.0)
    read(1.0)
    compiled = len(graphs)
    assert compiled <= COMPILED_FORMS
    for seconds in ((1.5, 2.2), (0.5,) * 5, (3.0,), (0.16, 4.0), (0.16,)):
        read(*seconds)
    assert len(graphs) == compiled
    torch.compiler.reset()
