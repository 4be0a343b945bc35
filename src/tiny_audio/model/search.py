"""Transcripts by the joint search, of as many clips at once as there is memory for.

`joint` searches, and `prefixes` scores. From noise, too, the search writes something. But CTC finds hardly any of it in
the audio, and, if it has heard noise in training, would not be surprised by silence: such a text is dropped.

Dimensions: B clips, N_i decoder positions of a clip, T audio tokens of all clips, W decoder width.
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
        clips: Sequence[Tensor],
        tokens: Tensor,
        counts: list[int],
        limits: list[int],
        search: SearchConfig,
    ) -> list[tuple[list[int], bool]]:
        """Write after B clips.

        Args:
            clips: (N_i, W) what the decoder reads before each clip's transcript.
            tokens: (T, W) the audio tokens, one clip after another, for the CTC head.
            counts: audio tokens of each clip.
            limits: upper limit of tokens for each clip.
            search: its settings.

        Returns:
            The decoder's tokens of each clip, and whether the limit cut them off. A text whose word pieces cost CTC
            more than `search.max_nats` is replaced by an empty one, unless silence would cost CTC at least
            `search.speech_nats` for each audio token; the first time a line is logged.
        """
        lexicon, spoken = self._lexicon_of(search), tokens.split(counts)
        size = max(1, MAX_SCORES // (max(counts, default=1) * len(self.ctc.vocabulary)))
        written: list[tuple[list[int], bool]] = []
        for start in range(0, len(clips), size):
            some = slice(start, start + size)
            log_probs = self.ctc.all_log_probs(torch.cat(spoken[some]), counts[some], self.decoder.embed)
            scores = PrefixScores(log_probs, counts[some])
            found = self.decoder.search(clips[some], scores, lexicon, search, limits[some])
            silence = [-float(clip[:n, 0].mean()) for clip, n in zip(log_probs, counts[some], strict=True)]
            written += [self._unless_noise(*one, search) for one in zip(*found, silence, strict=True)]
        return written

    def _unless_noise(
        self, tokens: list[int], cut_off: bool, nats: float, silence: float, search: SearchConfig
    ) -> tuple[list[int], bool]:
        surely = search.speech_nats is not None and silence >= search.speech_nats
        if search.max_nats is None or nats <= search.max_nats or surely:
            return tokens, cut_off
        if not self._told:
            self._told = True
            logger.warning(
                "A text is not written: CTC hardly finds it in the audio (%.1f nats per word piece, max_nats is %g). "
                "It is noise, or the model has learned too little. Further ones are not told.",
                nats,
                search.max_nats,
            )
        return [], False

    def _lexicon_of(self, search: SearchConfig) -> Lexicon:
        prompt, ends = self.decoder.prompt, set(self.decoder.end_ids)
        if not search.audio:
            ends.add(prompt.line_end_id)
        if self._lexicon is None or self._lexicon.end_ids != sorted(ends):
            self._lexicon = Lexicon(prompt.tokenizer, self.split, self.ctc.vocabulary, ends)
        return self._lexicon
