"""The evaluation sets of recognizers: the same clips for each recognizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..audio import load_audio
from ..config import Config
from ..data.sources import Source, open_sources
from ..errors import UserError
from ..evaluation.scoring import Rule, default_rules
from .apart import Apart, open_apart


@dataclass(frozen=True)
class Sets:
    """Evaluation sets, opened.

    Attributes:
        config: the settings that they were opened with.
        sources: clips that the model reads whole.
        apart: for each source, the other clips of its corpus.
        rules: of scoring.
    """

    config: Config
    sources: list[Source]
    apart: list[Apart]
    rules: tuple[Rule, ...]

    @property
    def num_clips(self) -> int:
        """Number of clips that are scored."""
        return sum(map(len, self.sources)) + sum(len(apart.rows) for apart in self.apart)

    def read(self, number: int) -> np.ndarray:
        """Return the samples (S,), 16 kHz, of a clip by its number among the transcripts.

        Raises:
            AudioError: it cannot be read.
        """
        for source, apart in zip(self.sources, self.apart, strict=True):
            if number < len(source):
                return source.read(number)
            number -= len(source)
            if number < len(apart.rows):
                return load_audio(apart.table.recordings[apart.rows[number][0]], channel=source.channel)
            number -= len(apart.rows)
        raise IndexError(number)


def open_sets(config: Config, rules: Sequence[Rule] | None = None) -> Sets:
    """Open the evaluation sets of a configuration.

    Args:
        config: its data and paths are used.
        rules: of scoring; None: those of `default_rules`.

    Raises:
        UserError: there is no set, one cannot be opened, or no set has a clip that can be scored.
    """
    data = config.data
    if not data.eval_datasets:
        raise UserError("the run had no evaluation set; name one: data.eval_path=my/dev.jsonl")
    sources = open_sources(
        data.eval_datasets,
        data,
        Path(config.paths.cache_dir),
        limit=data.max_eval_samples,
        seed=config.training.seed,
        data_dir=Path(config.paths.data_dir),
        evaluation=True,
        allow_empty=True,
    )
    apart = open_apart(sources, config)
    if not any(len(source) or one.rows for source, one in zip(sources, apart, strict=True)):
        reasons = sum((one.left_out for one in apart), Counter[str]())
        why = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        raise UserError(f"no clip of {', '.join(source.name for source in sources)} can be judged ({why}).")
    if rules is None:
        texts = [text for one in apart for text in one.texts]
        rules = default_rules(texts, [entry.language for entry in data.eval_datasets])
    return Sets(config, sources, apart, tuple(rules))
