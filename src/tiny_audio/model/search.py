"""Transcripts by the joint search: what the decoder reads before it, and as many clips at once as there is memory.

`joint` searches, and `prefixes` scores. From noise, too, the search writes something, but CTC finds hardly any of it in
the audio: such a text is dropped.

Dimensions: B clips, N decoder positions of all clips, T audio tokens of all clips, W decoder width.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from ..config import SearchConfig
from ..pieces import WordPieces
from .ctc import MAX_SCORES, CTCHead
from .decoder import Decoder
from .joint import Lexicon
from .prefixes import PrefixScores
from .sequences import Sequences

logger = logging.getLogger(__name__)


class JointSearch:
    """Writes transcripts with decoder and CTC head together.

    Args:
        ctc, decoder: the parts of a model.
        split: the word pieces of CTC.
    """

    def __init__(self, ctc: CTCHead, split: WordPieces, decoder: Decoder) -> None:
        self.ctc, self.split, self.decoder = ctc, split, decoder
        self._lexicon: Lexicon | None = None
        self._told = False  # that a text was dropped

    def write(
        self,
        embeddings: Tensor,
        sequences: Sequences,
        tokens: Tensor,
        counts: list[int],
        limits: list[int],
        search: SearchConfig,
    ) -> list[tuple[list[int], bool]]:
        """Write after B clips.

        Args:
            embeddings, sequences: (N, W) prompts and audio, and their layout.
            tokens: (T, W) the audio tokens, one clip after another, for the CTC head.
            counts: audio tokens of each clip.
            limits: upper limit of tokens for each clip.
            search: its settings.

        Returns:
            The decoder's tokens of each clip, and whether the limit cut them off. A text whose word pieces cost CTC
            more than `search.max_nats` is replaced by an empty one; the first time a line is logged.
        """
        clips: Sequence[Tensor] = embeddings.split(sequences.lengths)
        if not search.audio:
            clips = self._without_audio(embeddings, sequences, counts)
        lexicon, spoken = self._lexicon_of(search), tokens.split(counts)
        size = max(1, MAX_SCORES // (max(counts, default=1) * len(self.ctc.vocabulary)))
        written: list[tuple[list[int], bool]] = []
        for start in range(0, len(clips), size):
            some = slice(start, start + size)
            log_probs = self.ctc.all_log_probs(torch.cat(spoken[some]), counts[some], self.decoder.embed)
            scores = PrefixScores(log_probs, counts[some])
            found = self.decoder.search(clips[some], scores, lexicon, search, limits[some])
            written += [self._unless_noise(*one, search.max_nats) for one in zip(*found, strict=True)]
        return written

    def _unless_noise(
        self, tokens: list[int], cut_off: bool, nats: float, max_nats: float | None
    ) -> tuple[list[int], bool]:
        if max_nats is None or nats <= max_nats:
            return tokens, cut_off
        if not self._told:
            self._told = True
            logger.warning(
                "A text is not written: CTC hardly finds it in the audio (%.1f nats per word piece, max_nats is %g). "
                "It is noise, or the model has learned too little. Further ones are not told.",
                nats,
                max_nats,
            )
        return [], False

    def _without_audio(self, embeddings: Tensor, sequences: Sequences, counts: list[int]) -> list[Tensor]:
        """Return what CTC's language model reads before each clip's transcript: the prompt, then the examples."""
        is_text = torch.ones(len(embeddings), dtype=torch.bool, device=embeddings.device)
        is_text[sequences.audio_positions] = False
        sizes = [length - count for length, count in zip(sequences.lengths, counts, strict=True)]
        examples = self.decoder.embed(torch.tensor(self.decoder.prompt.example_ids, device=embeddings.device).long())
        return [torch.cat((prompt, examples)) for prompt in embeddings[is_text].split(sizes)]

    def _lexicon_of(self, search: SearchConfig) -> Lexicon:
        prompt, ends = self.decoder.prompt, set(self.decoder.end_ids)
        if prompt.example_ids and not search.audio:
            ends.add(prompt.line_end_id)
        if self._lexicon is None or self._lexicon.end_ids != sorted(ends):
            self._lexicon = Lexicon(prompt.tokenizer, self.split, self.ctc.vocabulary, ends)
        return self._lexicon
