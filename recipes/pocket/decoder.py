"""Pretrain the pocket decoder: a small Qwen3 that reads noisy spelled-out text in the chat prompt.

Where a projector will put audio tokens, 12.5 a second, stand slots of one or two characters, none or seldom
three, as speech delivers them. A slot's embedding is that of an ordinary token (or the mean of two), blurred
with other letters and Gaussian noise: so the frozen decoder leaves a projector something to aim at.

Dimensions: B examples, N tokens, D width.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from kaldialign import edit_distance
from muon import learning_rate_factor, muon_and_adam
from pocket_tokenizer import train_tokenizer, wrap_tokenizer
from spelling import spell
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from tiny_audio.prompt import Prompt

INSTRUCTION = "Transcribe the speech to text."
CONTINUATION_SHARE = 0.1  # of the batches: plain text, so that the decoder stays a language model
BLANK = "_"  # what a slot without a character holds
MAX_NOISE = 1.0  # standard deviation of the noise on a slot, in the embeddings' RMS: uniform from 0 to this

Pieces = tuple[list[int], list[float]]  # tokens of one position of the prompt, and their weights


def new_model(tokenizer: PreTrainedTokenizerFast, width: int, layers: int) -> Qwen3ForCausalLM:
    """Build an untrained model with tied embeddings."""
    config = Qwen3Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,  # some rows to spare, as Qwen3 has
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=48,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return model


class Reader:
    """Makes examples: prompt, noisy slots, transcript."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> None:
        self.prompt = Prompt(tokenizer, INSTRUCTION)
        self.rng = rng
        self.difficulty = 1.0  # 0: spelled without errors, mixtures and noise
        self.vocabulary = tokenizer.get_vocab()
        self.letters = [self.vocabulary[c] for c in "abcdefghijklmnopqrstuvwxyz'"]

    def slot(self, characters: str) -> Pieces:
        """Return tokens and weights of a slot: one sub-word if there is one, else its letters in equal parts.

        Now and then another letter is mixed in, as a projector that is not sure will do.
        """
        written = characters.replace(" ", "\u0120") or BLANK  # the byte-level alphabet writes a space so
        pieces = [written] if written in self.vocabulary else list(written)
        tokens = [self.vocabulary[piece] for piece in pieces]
        weights = [1 / len(tokens)] * len(tokens)
        if self.rng.random() < 0.25 * self.difficulty:
            other = self.rng.uniform(0.0, 0.5)
            weights = [weight * (1 - other) for weight in weights] + [other]
            tokens = [*tokens, self.rng.choice(self.letters)]
        return tokens, weights

    def embed(self, texts: Sequence[str], table: Tensor) -> tuple[list[Tensor], list[list[int]]]:
        """Embed the prompts of several texts, noise included.

        Args:
            texts: B transcripts.
            table: the token embeddings (vocabulary, D).

        Returns:
            B prompts (N_i, D), and the B targets.
        """
        rms = table.detach().square().mean().sqrt()
        prefix = table[torch.tensor(self.prompt.prefix_ids)]
        suffix = table[torch.tensor(self.prompt.suffix_ids)]
        prompts, targets = [], []
        for text in texts:
            slots = [self.slot(characters) for characters in spell(text, self.rng, self.difficulty)]
            most = max(len(tokens) for tokens, _ in slots)
            tokens = torch.tensor([tokens + [0] * (most - len(tokens)) for tokens, _ in slots])
            weights = torch.tensor([weights + [0.0] * (most - len(weights)) for _, weights in slots])
            slot_embeds = (table[tokens] * weights[..., None]).sum(1)
            noise = torch.randn_like(slot_embeds) * rms * self.rng.uniform(0.0, MAX_NOISE * self.difficulty)
            scale = self.rng.uniform(0.7, 1.4)
            prompts.append(torch.cat([prefix, slot_embeds * scale + noise, suffix]))
            targets.append(self.prompt.target_ids(text))
        return prompts, targets


def reading_loss(model: Qwen3ForCausalLM, reader: Reader, texts: Sequence[str]) -> Tensor:
    """Cross-entropy of the transcripts after their noisy prompts; logits at target positions only."""
    table = model.get_input_embeddings().weight
    prompts, targets = reader.embed(texts, table)
    rows = [torch.cat([p, table[torch.tensor(t[:-1])]]) for p, t in zip(prompts, targets, strict=True)]
    embeds = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    # No mask: attention is causal, and the padding comes after.
    hidden = model.model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    picked = torch.cat([h[len(p) - 1 : len(p) - 1 + len(t)] for h, p, t in zip(hidden, prompts, targets, strict=True)])
    return F.cross_entropy(model.lm_head(picked), torch.tensor([i for t in targets for i in t]))


def continuation_loss(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Tensor:
    """Next-token cross-entropy of fragments one below the other, in rows of 64 tokens."""
    stream = tokenizer("\n".join(texts), add_special_tokens=False)["input_ids"]
    rows = torch.tensor(stream[: len(stream) // 64 * 64]).view(-1, 64)
    return model(input_ids=rows, labels=rows, use_cache=False).loss


@torch.inference_mode()
def word_error_rate(model: Qwen3ForCausalLM, reader: Reader, texts: Sequence[str]) -> tuple[float, list[str]]:
    """Generate from noisy prompts greedily: word error rate, hypotheses."""
    model.eval()
    prompts, _ = reader.embed(texts, model.get_input_embeddings().weight)
    most = max(len(p) for p in prompts)
    embeds = torch.stack([F.pad(p, (0, 0, most - len(p), 0)) for p in prompts])
    mask = torch.stack([(torch.arange(most) >= most - len(p)).long() for p in prompts])
    written = model.generate(inputs_embeds=embeds, attention_mask=mask, max_new_tokens=40)
    hypotheses = [reader.prompt.decode(row) for row in written.tolist()]
    model.train()
    errors = sum(edit_distance(t.split(), h.split())["total"] for t, h in zip(texts, hypotheses, strict=True))
    return errors / sum(len(t.split()) for t in texts), hypotheses


def main() -> None:
    """Train the tokenizer and the model; a line every 50 steps, an evaluation and a save every `--every`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sentences", type=Path, help="what sentences.py wrote")
    parser.add_argument("output", type=Path, help="a folder: decoder.pt and decoder/")
    parser.add_argument("--init", type=Path, help="go on from another output folder's weights and tokenizer")
    parser.add_argument("--vocabulary", type=int, default=1000)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--muon-rate", type=float, default=0.015)
    parser.add_argument("--adam-rate", type=float, default=2e-3)
    parser.add_argument("--decay-share", type=float, default=0.5)
    parser.add_argument("--ramp", type=int, default=600, help="steps until errors and noise are at their full")
    parser.add_argument("--every", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    texts = json.loads(args.sentences.read_text())["decoder"]
    held_out, texts = texts[:200], texts[200:]
    folder = args.output / "decoder"
    if args.init:
        tokenizer = wrap_tokenizer(Tokenizer.from_file(str(args.init / "decoder" / "tokenizer.json")))
    else:
        tokenizer = train_tokenizer(texts, args.vocabulary, INSTRUCTION)
    model = new_model(tokenizer, args.width, args.layers)
    if args.init:
        model.load_state_dict(torch.load(args.init / "decoder.pt", weights_only=True))
    tokenizer.save_pretrained(folder)
    reader = Reader(tokenizer, rng)
    around = f"{len(reader.prompt.prefix_ids)} + {len(reader.prompt.suffix_ids)}"
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{len(tokenizer)} tokens, {around} around the slots; {size:.2f} M parameters", flush=True)

    optimizers = muon_and_adam(model, args.muon_rate, args.adam_rate)
    schedulers = [LambdaLR(o, lambda s: learning_rate_factor(s, args.steps, 100, args.decay_share)) for o in optimizers]
    started, losses = time.time(), []
    for step in range(1, args.steps + 1):
        reader.difficulty = min(1.0, step / args.ramp)
        if rng.random() < CONTINUATION_SHARE:
            loss = continuation_loss(model, tokenizer, rng.sample(texts, 6 * args.batch_size))
        else:
            loss = reading_loss(model, reader, rng.sample(texts, args.batch_size))
            losses.append(loss.item())
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
        if step % 50 == 0:
            recent = sum(losses[-45:]) / len(losses[-45:])
            print(f"step {step:5}  loss {recent:.3f}  {time.time() - started:5.0f} s", flush=True)
        if step % args.every == 0 or step == args.steps:
            wer, hypotheses = word_error_rate(model, reader, held_out)
            print(f"step {step:5}  WER {wer:.1%} of noisy spelling  {hypotheses[:3]}", flush=True)
            torch.save(model.state_dict(), args.output / "decoder.pt")
            half = Qwen3ForCausalLM(model.config)
            half.load_state_dict(model.state_dict())
            half.generation_config = model.generation_config
            half.half().save_pretrained(folder)


if __name__ == "__main__":
    main()
