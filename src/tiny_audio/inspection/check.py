"""The whole inspection, in order: open as training does, read transcripts, headers and recordings, compare, judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..config import Config, DatasetConfig
from ..data.entries import open_table, unique_names
from ..data.sources import Source, open_sources
from ..data.tables import Table
from ..errors import UserError
from ..lengths import MAX_CLIP_SECONDS
from ..model.decoder import load_prompt
from ..prompt import Prompt
from ..text import CLEANERS, clean_transcript
from ..training.build import build_plan, usable_workers
from .facts import CorpusFacts, Histogram, MixtureFacts, Named, Report, Share, Spread, TokenFacts
from .findings import find
from .overlap import look_at_overlap
from .recordings import look_at_headers, look_at_recordings, sample_rows
from .texts import look_at_raw_texts, look_at_texts, shorten

POINTS = 2000  # clips of a corpus in a picture
TOKENIZED = 2000  # transcripts of a corpus that are tokenized
MAX_BATCHES = 2000  # whose padding is measured: 32,000 draws at batch 16
GIVEN_AWAY_WORDS = 4  # of a transcript: a shorter one may rightly be in its context, such as a name


@dataclass(frozen=True)
class Opened:
    """A source with its entry and its role, `train` or `eval`."""

    role: str
    source: Source
    entry: DatasetConfig


def open_role(config: Config, role: str, as_drawn: bool = False) -> list[Opened]:
    """Open the corpora of a role as `ta train` does; of streams, read the texts of all clips unless `as_drawn`.

    Raises:
        UserError: one of them cannot be opened, or has no usable clip.
    """
    data = config.data
    entries, limit = (
        (data.datasets, data.max_samples) if role == "train" else (data.eval_datasets, data.max_eval_samples)
    )
    if not entries:
        return []
    sources = open_sources(
        entries,
        replace(data, max_skipped_share=0.999),  # a report of all faults, not an error at the first
        Path(config.paths.cache_dir),
        limit=limit,
        seed=config.training.seed,
        data_dir=Path(config.paths.data_dir),
        as_drawn=as_drawn,
    )
    by_name = dict(zip(unique_names(entries), entries, strict=True))  # a source may have been dropped
    return [Opened(role, source, by_name[source.name]) for source in sources]


def check(config: Config, headers: int | None, decode: int | None) -> Report:
    """Inspect the data of a configuration.

    Args:
        config: a configuration of `ta train`.
        headers: recordings of each corpus whose headers are read; None: all.
        decode: clips of each corpus that are decoded; None: all.

    Raises:
        UserError: there is no corpus, or one cannot be opened.
    """
    train, evaluation = open_role(config, "train"), open_role(config, "eval")
    if not train:
        raise UserError("data.datasets is empty; name a corpus, such as data=librispeech, or a manifest.")
    opened, seed = train + evaluation, config.training.seed
    edges = duration_edges(max(float(one.source.durations.max()) for one in opened))
    corpora = [look_at(one, config, edges) for one in opened]
    for facts, one in zip(corpora, opened, strict=True):
        facts.headers = look_at_headers(one.source, sample_rows(one.source, headers, seed, read=True))
    if decode != 0:
        rows = [sample_rows(one.source, decode, seed, read=True) for one in opened]
        workers = usable_workers(config.data.num_workers)
        decoded = look_at_recordings([one.source for one in opened], rows, config.data, workers)
        for facts, found in zip(corpora, decoded, strict=True):
            facts.decoded = found
    prompt, reason = find_prompt(config)
    for facts, one in zip(corpora, opened, strict=True):
        if prompt is not None:
            limit = config.training.max_new_tokens if one.role == "eval" else None
            facts.tokens = look_at_tokens(one.source, prompt, sample_rows(one.source, TOKENIZED, seed), limit)
    train_sources, eval_sources = ([one.source for one in side] for side in (train, evaluation))
    report = Report(
        corpora=corpora,
        overlap=look_at_overlap(train_sources, eval_sources),
        mixture=look_at_mixture(train_sources, config),
        max_skipped_share=config.data.max_skipped_share,
        tokenizer=reason,
    )
    report.findings = find(report)
    return report


def look_at(one: Opened, config: Config, edges: np.ndarray) -> CorpusFacts:
    """Inspect what a corpus lists: transcripts, durations (counted between `edges`), speakers."""
    source = one.source
    text, outliers = look_at_texts(source.durations.astype(np.float64), source.texts, source.names)
    look_at_raw_texts(text, raw_texts(one, config))
    left_out: dict[str, Named] = {}
    for skip in source.skipped:
        left_out.setdefault(skip.reason, Named()).add(skip.name, skip.detail)
    speakers = None if source.speakers is None else Counter(source.speakers)
    if speakers is not None:
        speakers.pop("", None)
    repeated = Named()
    for name, count in Counter(source.names).items():
        if count > 1:
            repeated.add(name, f"{count:,} clips")
    shown = sample_rows(source, POINTS, config.training.seed)
    shown = np.union1d(shown, np.flatnonzero(outliers)[:POINTS])
    return CorpusFacts(
        name=source.name,
        role=one.role,
        clips=len(source),
        hours=float(source.durations.sum(dtype=np.float64)) / 3600,
        speakers=len(speakers) if speakers else None,
        top_speaker=max(speakers.values()) / speakers.total() if speakers else None,
        durations=Spread.of(source.durations),
        duration_histogram=Histogram.of(source.durations, edges),
        left_out=left_out,
        repeated_names=repeated,
        text=text,
        contexts=source.num_contexts or 0,
        whole_contexts=whole_contexts(source),
        points=[(float(source.durations[row]), len(source.texts[row]), bool(outliers[row])) for row in shown.tolist()],
    )


def whole_contexts(source: Source) -> Named:
    """Return the clips whose context holds their whole transcript."""
    found = Named()
    for row, known in enumerate(source.contexts or ()):
        transcript = source.texts[row]
        if len(transcript.split()) >= GIVEN_AWAY_WORDS and f" {transcript} " in f" {clean_transcript(known)} ":
            found.add(source.names[row], shorten(known, 40))
    return found


def duration_edges(longest: float) -> np.ndarray:
    """Return edges with equal steps of a whole number, up to the longest clip; 20 to 60 if that is possible."""
    step = next((step for step in (0.05, 0.1, 0.25, 0.5) if longest / step <= 60), 1.0)
    return np.arange(0, np.ceil(longest / step) + 1) * step


def open_raw(one: Opened, config: Config) -> Table:
    """Open a corpus again, with all of its rows."""
    cache_dir, data_dir = Path(config.paths.cache_dir), Path(config.paths.data_dir)
    return open_table(one.entry, config.data, cache_dir, one.source.asked, data_dir, config.training.seed)


def raw_texts(one: Opened, config: Config) -> Iterator[tuple[str, str, str, str]]:
    """Yield name and transcript of a source's clips: as the corpus has it, after its own cleaning, and as cleaned."""
    table = open_raw(one, config)
    prepare = CLEANERS.get(one.entry.name)
    row_of = dict(zip(one.source.table_rows.tolist(), range(len(one.source)), strict=True))
    for table_row, raw in enumerate(table.texts):
        row = row_of.get(table_row)
        if row is not None and raw is not None:
            yield one.source.names[row], raw, prepare(raw) if prepare else raw, one.source.texts[row]


def find_prompt(config: Config) -> tuple[Prompt | None, str | None]:
    """Load the decoder's tokenizer, or return one line on why it cannot be loaded; the other checks do not need it."""
    model = config.model
    try:
        return load_prompt(model.decoder, model.decoder_revision, model.prompt, model.context_prompt), None
    except UserError as error:
        return None, str(error)


def look_at_tokens(source: Source, prompt: Prompt, rows: np.ndarray, limit: int | None) -> TokenFacts:
    """Tokenize some transcripts; those of more than `limit` tokens are cut off at an evaluation."""
    counts: list[int] = []
    too_long, not_given_back = Named(), Named()
    for row in rows.tolist():
        name, text = source.names[row], source.texts[row]
        ids = prompt.target_ids(text)
        counts.append(len(ids))
        if limit is not None and len(ids) > limit:
            too_long.add(name, f"{len(ids):,} tokens")
        if (back := prompt.decode(ids)) != text:
            not_given_back.add(name, f"{shorten(text, 40)} comes back as {shorten(back, 40)}")
    return TokenFacts(len(rows), Spread.of(counts), too_long, not_given_back)


def look_at_mixture(sources: Sequence[Source], config: Config) -> MixtureFacts:
    """Draw as training on one device would, and count."""
    plan, training = build_plan(config, sources), config.training
    per_step = training.batch_size * training.gradient_accumulation_steps
    draws = training.max_steps * per_step
    seconds = np.array([source.durations.sum(dtype=np.float64) for source in sources])
    drawn_seconds = plan.shares * seconds / plan.sizes
    shares = [
        Share(
            name=source.name,
            draws=float(plan.shares[k]),
            clips=float(plan.sizes[k] / plan.sizes.sum()),
            hours=float(seconds[k] / seconds.sum()),
            drawn_hours=float(drawn_seconds[k] / drawn_seconds.sum()),
            passes=float(draws * plan.shares[k] / plan.sizes[k]),
        )
        for k, source in enumerate(sources)
    ]
    batches = min(MAX_BATCHES, training.max_steps * training.gradient_accumulation_steps)
    lengths = np.array(
        [[plan.durations[d.source][d.row] for d in plan.batch(number)] for number in range(batches)], dtype=np.float64
    )
    shuffled = np.random.default_rng(training.seed).permutation(lengths.ravel()).reshape(lengths.shape)
    return MixtureFacts(
        steps=training.max_steps,
        clips_per_step=per_step,
        drawn_hours=float(draws * drawn_seconds.sum() / 3600),
        epochs=plan.epoch(draws),
        shares=shares,
        padding=padding(lengths),
        padding_random=padding(shuffled),
        padding_30s=1 - float(lengths.mean()) / MAX_CLIP_SECONDS,
    )


def padding(lengths: np.ndarray) -> float:
    """Return the share of padding in batches of these lengths (batches, clips), each padded to its longest."""
    return 1 - float(lengths.sum() / (lengths.max(1) * lengths.shape[1]).sum())
