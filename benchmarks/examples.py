"""What transcripts of training are worth to a decoder that serves as CTC's language model.

    python benchmarks/examples.py build/real/SmolLM2-135M-Instruct my/train.jsonl my/dev.jsonl

After the prompt, the decoder reads 0, 1, 2, ... transcripts of the training set, chosen as in training
(`model.search.examples`). The script prints what a word of the evaluation set's transcripts costs it then, in nats,
with the end of the transcript; and the tokens that the examples add to the prompt. No audio is read.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from tiny_audio.config import DataConfig, DatasetConfig, ModelConfig
from tiny_audio.data.sources import open_source
from tiny_audio.model.decoder import Decoder, load_decoder
from tiny_audio.training.texts import choose_examples


@torch.inference_mode()
def cost(decoder: Decoder, texts: list[str]) -> float:
    """Return the negative log-likelihood of texts after the prompt and its examples, in nats."""
    prompt = decoder.prompt
    ends = sorted({*decoder.end_ids, *([prompt.line_end_id] if prompt.example_ids else [])})
    before = [*prompt.prefix_ids, *prompt.suffix_ids, *prompt.example_ids]
    total = 0.0
    for text in texts:
        ids = torch.tensor(prompt.encode(text))
        logits = decoder.module(torch.tensor([[*before, *ids.tolist()]])).logits[0, len(before) - 1 :]
        log_probs = logits.float().log_softmax(-1)  # (K + 1, V)
        total -= float(log_probs[:-1].gather(1, ids[:, None]).sum() + log_probs[-1, ends].logsumexp(0))
    return total


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("decoder", help="Hub id or folder")
    parser.add_argument("train", help="manifest that the examples are of")
    parser.add_argument("data", help="manifest whose transcripts are scored")
    parser.add_argument("--counts", type=int, nargs="+", default=[0, 1, 2, 4, 8, 16])
    parser.add_argument("--cache-dir", type=Path, default=Path("cache"))
    given = parser.parse_args()
    decoder = load_decoder(given.decoder, None, ModelConfig.prompt, torch.float32)
    decoder.eval()
    sets = [open_source(DatasetConfig(path=path), DataConfig(), given.cache_dir) for path in (given.train, given.data)]
    train, texts = (list(source.texts) for source in sets)
    words = sum(len(text.split()) for text in texts)
    print(
        f"{len(texts)} transcripts, {words:,} words\n\n| examples | tokens | nats a word | s |\n|---:|---:|---:|---:|"
    )
    for count in given.counts:
        decoder.prompt.set_examples(choose_examples(train, count))
        start = time.perf_counter()
        nats = cost(decoder, texts) / words
        print(
            f"| {count} | {len(decoder.prompt.example_ids)} | {nats:.2f} | {time.perf_counter() - start:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
