"""Whether rare words that are given as context are written more often.

    python benchmarks/context.py make train.jsonl train-context.jsonl
    ta train experiment=laptop_lora data=custom data.train_path=train-context.jsonl data.eval_path=dev.jsonl \\
        training.ctc_min_count=120   # 30 times the copies of each clip
    python benchmarks/context.py measure outputs/laptop_lora/checkpoints/final.pt test.jsonl --train train.jsonl

`make` writes a manifest to train on: each clip several times, with contexts that are lists of words: some rare words of
its own transcript among some of other clips' transcripts, or the latter alone.

`measure` looks for the words of a test set that occur in no training transcript, and has its clips written down three
times: without a context, with the clip's own such words among those of other clips (or of a word list), and with the
latter alone. It prints the share of these words that are written, WER, how many words were written that the context
alone has, and 95 % intervals from bootstrapping clips.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from tiny_audio.config import Config, DataConfig, DatasetConfig, PathsConfig
from tiny_audio.data.loader import ClipDataset
from tiny_audio.data.plan import Draw
from tiny_audio.data.sources import Source, open_source
from tiny_audio.evaluation.wer import bootstrap_interval, count_errors, word_errors
from tiny_audio.inference import Recognizer
from tiny_audio.text import clean_transcript
from tiny_audio.training.feature_cache import cache_features

OWN = 4  # most words of its own that a training clip is given
WRONG_SHARE = 0.15  # of the training clips are given words of others alone


def words_of(texts: Sequence[str]) -> list[list[str]]:
    """Return the words of each transcript, as they are taught."""
    return [clean_transcript(text).split() for text in texts]


def pick(words: Sequence[str], count: int, rng: np.random.Generator, but: Sequence[str] = ()) -> list[str]:
    """Return `count` different words, none of them one of `but`; fewer where there are not so many."""
    usable = sorted(set(words) - set(but))
    return [usable[i] for i in rng.permutation(len(usable))[:count].tolist()]


def make(given: argparse.Namespace) -> None:
    """Write the training manifest."""
    lines = Path(given.manifest).read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    said = words_of([row["text"] for row in rows])
    counts = Counter(word for words in said for word in words)
    rng = np.random.default_rng(given.seed)
    left_out = set(pick(list(counts), given.leave_out, rng))
    usable = [(row, words) for row, words in zip(rows, said, strict=True) if not left_out & set(words)]
    rare = sorted({word for _, words in usable for word in words if counts[word] <= given.rare})
    with Path(given.output).open("w", encoding="utf-8") as out:
        for row, words in usable:
            mine = [word for word in words if counts[word] <= given.rare]
            for _ in range(given.copies):
                own = [] if rng.random() < WRONG_SHARE else pick(mine, int(rng.integers(1, OWN + 1)), rng)
                others = pick(rare, int(rng.integers(0 if own else 1, given.distractors + 1)), rng, but=words)
                row["context"] = pick([*own, *others], len(own) + len(others), rng)
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{len(usable):,} clips, {given.copies} times each, {len(rare):,} rare words: {given.output}")


def contexts_of(unseen: Sequence[list[str]], said: Sequence[list[str]], given: argparse.Namespace) -> dict[str, list]:
    """Return the words that each clip is given, by the name of the condition."""
    listed = Path(given.words).read_text("utf-8").split() if given.words else [word for own in unseen for word in own]
    rng = np.random.default_rng(given.seed)
    right, wrong = [], []
    for own, words in zip(unseen, said, strict=True):
        others = pick(listed, given.distractors, rng, but=words)
        right.append(pick([*own, *others], len(set(own)) + len(others), rng))
        wrong.append(pick(listed, len(right[-1]), rng, but=words))
    return {"no context": [[] for _ in said], "its words among others": right, "wrong words alone": wrong}


def write_down(recognizer: Recognizer, source: Source, contexts: list[list[str]], batch_size: int) -> list[str]:
    """Return what is written of each clip, whole, those of like length at once."""
    model = recognizer.model
    known = [torch.tensor(recognizer.read_context(", ".join(words)), dtype=torch.int64) for words in contexts]
    dataset = ClipDataset([source], model.decoder.prompt.target_ids, DataConfig())
    order = np.argsort(source.durations, kind="stable").tolist()
    written: dict[int, str] = {}
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        batch = dataset.__getitems__([Draw(row, 0, row) for row in rows])
        assert len(batch) == len(rows), batch.skipped
        frames, lengths = model.encode(batch)
        found = model.write(frames, lengths, 200, guarded=True, contexts=[known[row] for row in rows])
        written |= {row: one.text for row, one in zip(rows, found, strict=True)}
    return [written[row] for row in range(len(order))]


def percent(counts: np.ndarray, totals: np.ndarray) -> str:
    """Return a share with its interval over clips."""
    low, high = bootstrap_interval(counts, totals)
    return f"{counts.sum() / totals.sum():.1%} ({low:.1%} to {high:.1%})"


@torch.inference_mode()
def measure(given: argparse.Namespace) -> None:
    """Measure, and print."""
    recognizer = Recognizer(given.checkpoint, "cpu")
    cache = Path(given.cache_dir)
    data = DataConfig(max_audio_length=given.max_seconds)
    source = open_source(DatasetConfig(path=given.data), data, cache)
    train = open_source(DatasetConfig(path=given.train), DataConfig(), cache)
    heard = {word for words in words_of(train.texts) for word in words}
    said = words_of(source.texts)
    unseen = [[word for word in words if word not in heard] for words in said]
    kept = np.array([row for row, own in enumerate(unseen) if own])[: given.clips]
    source = source.subset(kept)
    said, unseen = [said[row] for row in kept.tolist()], [unseen[row] for row in kept.tolist()]
    config = Config(data=DataConfig(cache_features=True), paths=PathsConfig(cache_dir=str(cache)))
    wanted = [(0, row) for row in range(len(source))]
    cache_features(config, recognizer.model.encoder, [source], wanted, Accelerator(cpu=True), 0)
    totals = np.array([len(own) for own in unseen])
    print(f"{len(said)} clips with {totals.sum()} words that no training transcript has ({given.distractors} others)")
    contexts = contexts_of(unseen, said, given)
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, words in contexts.items():
        texts = write_down(recognizer, source, words, given.batch_size)
        written = [Counter(text.split()) for text in texts]
        hits = np.array([sum((Counter(own) & counts).values()) for own, counts in zip(unseen, written, strict=True)])
        errors, lengths = word_errors(list(source.texts), texts)
        invented = sum(
            counts[word] for one, counts, own in zip(words, written, said, strict=True) for word in set(one) - set(own)
        )
        counts, _ = count_errors(list(source.texts), texts)
        found[name] = hits, errors
        print(
            f"{name}: recall {percent(hits, totals)}, WER {percent(errors, lengths)}, {invented} words of the context "
            f"alone written ({counts.substitutions} substitutions, {counts.deletions} deletions, "
            f"{counts.insertions} insertions)"
        )
    hits, errors = found["no context"]
    for name in list(found)[1:]:
        more, other = found[name]
        print(
            f"{name} against no context: recall {percent(more - hits, totals)}, WER {percent(other - errors, lengths)}"
        )


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("make")
    one.add_argument("manifest", help="JSON lines")
    one.add_argument("output")
    one.add_argument("--copies", type=int, default=4, help="of each clip, with a context each")
    one.add_argument("--rare", type=int, default=3, help="occurrences, up to which a word is given to its own clips")
    one.add_argument("--leave-out", type=int, default=0, help="draw so many words, and leave out the clips with them")
    one.set_defaults(run=make)
    other = commands.add_parser("measure")
    other.add_argument("checkpoint")
    other.add_argument("data", help="a manifest or folder")
    other.add_argument("--train", required=True, help="manifest of the training transcripts")
    other.add_argument("--words", help="a file of words to draw others from; default: other clips' words")
    other.add_argument("--clips", type=int, help="no more than the first so many")
    other.add_argument("--max-seconds", type=float, default=30.0, help="leave longer clips out")
    other.add_argument("--batch-size", type=int, default=8)
    other.add_argument("--cache-dir", default=PathsConfig().cache_dir)
    other.set_defaults(run=measure)
    for command in (one, other):
        command.add_argument("--distractors", type=int, default=8, help="words of others")
        command.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.run(given)


if __name__ == "__main__":
    main()
