"""How often the joint search misses a better text: its own score of what it wrote, and of what was said.

    python benchmarks/search.py outputs/laptop/checkpoints/final.pt my/dev.jsonl --clips 40 --beams 8

If the search gives the reference a higher score than its own text, it did not find it: an error of the search, which a
better search would mend. If not, it is an error of the models, which it would not. Wrong texts that score higher than
what was said tell that the weights, the decoder or the projector must change.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from tiny_audio.config import DataConfig, DatasetConfig, PathsConfig, SearchConfig
from tiny_audio.data.sources import open_source
from tiny_audio.evaluation.wer import word_errors
from tiny_audio.inference.transcribe import Decoding, Recognizer
from tiny_audio.lengths import SAMPLE_RATE
from tiny_audio.model.prefixes import PrefixScores
from tiny_audio.model.search import JointSearch
from tiny_audio.pieces import words_of


class Parts(NamedTuple):
    """What makes up the score of a text, in nats."""

    decoder: float
    ctc: float
    rarity: float

    def score(self, search: SearchConfig) -> float:
        """Return the sum that the search maximizes."""
        return self.decoder + search.ctc_weight * self.ctc + search.prior_weight * self.rarity


class Judged(JointSearch):
    """A search that, after each clip, also scores the text that was said.

    Attributes:
        said: this text, of the next clip.
        found: of each clip what was written, and the parts of the scores of what was written and what was said;
            None for a text with a letter that CTC has not learned.
    """

    said = ""

    def __init__(self, search: JointSearch) -> None:
        super().__init__(search.ctc, search.split, search.decoder)
        self.found: list[tuple[str, Parts | None, Parts | None]] = []

    def write(
        self, clips: Sequence[Tensor], tokens: Tensor, counts: list[int], limits: list[int], search: SearchConfig
    ) -> list[tuple[list[int], bool]]:
        """Write after one clip, and score both texts."""
        written = super().write(clips, tokens, counts, limits, search)
        ids, tokenizer = written[0][0], self.decoder.prompt.tokenizer
        space = " " if tokenizer.decode(ids).startswith(" ") else ""
        said: list[int] = tokenizer(space + self.said, add_special_tokens=False)["input_ids"]
        log_probs = self.ctc.all_log_probs(tokens, counts, self.decoder.embed)
        both = [self._parts(clips[0], PrefixScores(log_probs, counts), search, text) for text in (ids, said)]
        self.found.append((self.decoder.prompt.decode(ids), *both))
        return written

    def _parts(self, clip: Tensor, scores: PrefixScores, search: SearchConfig, ids: list[int]) -> Parts | None:
        lexicon, names = self._lexicon_of(search), self.decoder.prompt.tokenizer.convert_ids_to_tokens(ids)
        words = [name for name, _ in words_of(self.decoder.prompt.tokenizer, self.decoder.prompt.tokenizer.decode(ids))]
        if "".join(words) != "".join(names) or not all(map(lexicon.spell, words)):
            return None
        clips = torch.tensor([0])  # and the one prefix
        state = scores.start(clips)
        for piece in (piece for word in words for piece in lexicon.spell(word)):
            state, _ = scores.extend(clips, state, clips, torch.tensor([piece]))
        rows, total = self.decoder._rows([clip], 1, len(ids) + 1), 0.0
        for token in ids:
            total += float(rows.logits.float().log_softmax(1)[0, token])
            rows.step(torch.tensor([token], device=clip.device), [0])
        total += float(rows.logits.float().log_softmax(1)[0, lexicon.end_ids].logsumexp(0))
        return Parts(total, float(scores.whole(clips, state)), sum(map(lexicon.rarity, words)))


def main() -> None:
    """Transcribe, score, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("data", help="a manifest or folder")
    parser.add_argument("--clips", type=int, default=40)
    for name in ("beams", "ctc-weight", "prior-weight"):
        parser.add_argument(f"--{name}", type=int if name == "beams" else float, help="default: the checkpoint's")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    weights = Decoding(beams=given.beams, ctc_weight=given.ctc_weight, prior_weight=given.prior_weight)
    recognizer = Recognizer(given.checkpoint, decoding=weights)
    model = recognizer.model
    if model._joint is None or model.search.beams < 2:
        parser.error(f"{given.checkpoint} does not search; give --beams 8.")
    model._joint = judged = Judged(model._joint)
    source = open_source(DatasetConfig(path=given.data), DataConfig(), Path(PathsConfig().cache_dir))
    rows = range(min(given.clips, len(source)))
    seconds, began = 0.0, time.perf_counter()
    for row in rows:
        judged.said, waveform = source.texts[row], source.read(row)
        seconds += len(waveform) / SAMPLE_RATE
        recognizer.transcribe(waveform, SAMPLE_RATE)
    took = time.perf_counter() - began
    report([source.texts[row] for row in rows], judged.found, model.search)
    print(f"{seconds:.0f} s of audio in {took:.0f} s, scoring of the references included")


def report(references: list[str], found: list[tuple[str, Parts | None, Parts | None]], search: SearchConfig) -> None:
    """Print the error rate, whose fault the wrong texts are, and by how much."""
    errors, words = word_errors(references, [text for text, *_ in found])
    print(f"{len(found)} clips, WER {errors.sum() / words.sum():.1%}")
    gains = [
        said.score(search) - wrote.score(search)
        for reference, (text, wrote, said) in zip(references, found, strict=True)
        if text != reference and wrote is not None and said is not None
    ]
    missed = sorted(gain for gain in gains if gain > 0)
    by = f", by {missed[len(missed) // 2]:.1f} nats (median)" if missed else ""
    print(f"{len(gains)} wrong texts that can be scored; in {len(missed)} the search missed a better one{by}")


if __name__ == "__main__":
    main()
