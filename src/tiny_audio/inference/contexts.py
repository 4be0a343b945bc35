"""Contexts of recordings to transcribe, as the user types them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ..config import DataConfig
from ..errors import UserError
from ..model.speech_llm import SpeechLLM
from ..text import clean_context

logger = logging.getLogger(__name__)


class TypedContexts:
    """Converts contexts to the form that they had in training.

    If the model was never trained with contexts, one line is logged: it may ignore them, or write worse transcripts.
    A decoder that only serves as CTC's language model needs no such training.

    Args:
        model: with the search that it will use.
        saved: the checkpoint; one of an older version has no contexts.
    """

    def __init__(self, model: SpeechLLM, saved: dict[str, Any]) -> None:
        self._prompt, data = model.decoder.prompt, saved["config"]["data"]
        self._text_case: str = data.get("text_case", DataConfig.text_case)
        self._longest: int = data.get("max_context_length", DataConfig.max_context_length)
        self._is_new = model.reads_audio and saved.get("contexts", 0) == 0  # None: not known

    def __call__(self, context: str) -> list[int]:
        """Return the tokens of a context, in the same text form as the transcripts.

        Raises:
            UserError: it is too long, or the model's prompt has no place for it.
        """
        known = clean_context(context, self._text_case)
        if len(known) > self._longest:
            raise UserError(f"the context has {len(known):,} characters, and may have {self._longest:,}; shorten it.")
        if known and self._is_new:
            logger.warning("This model was trained without contexts; a context may have no effect, or do harm.")
            self._is_new = False
        return self._prompt.context_ids(known)


def one_each(context: str | Sequence[str], count: int | None) -> list[str]:
    """Return a context for each of `count` recordings; None: for one recording that is not in a list.

    Raises:
        UserError: the number of contexts differs from that of the recordings.
    """
    if isinstance(context, str):
        return [context] * (1 if count is None else count)
    if count is None or len(context) != count:
        raise UserError(
            f"context is a text, or a list of a text for each recording; got {len(context)} for "
            f"{'one that is in no list' if count is None else f'{count} recordings'}."
        )
    return list(context)
