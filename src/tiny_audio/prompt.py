"""The only place that defines what the decoder reads: chat template, audio position, context, target tokens.

The decoder reads a clip as ``prefix_ids | audio tokens | suffix_ids | target_ids``. Training and inference use the same
prefix and suffix, including an empty think block where the template writes one. The loss covers exactly `target_ids`:
the transcript, and the tokens with which the template ends an assistant's turn. A clip with a context has another
suffix, which holds the context's tokens: see `Prompt.suffix`.

A decoder that only serves as CTC's language model reads ``prefix_ids | suffix_ids | example_ids``, and writes the next
line. It learns from lines alone: ``prefix_ids | suffix_ids | line_ids ...``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from itertools import count
from typing import Any

from jinja2 import TemplateError

from .config import ModelConfig
from .errors import UserError

Turns = Sequence[tuple[str, str]]  # role and content
IDS = ("prefix_ids", "suffix_ids", "end_ids", "pad_id")
CONTEXT_IDS = ("before_context_ids", "after_context_ids")  # a checkpoint of an older version has none


class Prompt:
    """Token ids around the audio, for one tokenizer and one instruction.

    Attributes:
        prefix_ids, suffix_ids: before and after the audio.
        end_ids: end the decoder's turn; generation stops at the last of them.
        pad_id: written after the end, in a batch.
        before_context_ids, after_context_ids: around a context, in the place of `suffix_ids`; None where the model
            takes no context (it was exported without one).
        example_ids: transcripts of the training data, each followed by the end of a line; empty: none were chosen.

    Args:
        tokenizer: a `transformers` tokenizer with a chat template.
        instruction: the text of the user's turn, after the audio.
        context: the line below it for clips with a context, which replaces `{context}`.

    Raises:
        UserError: the tokenizer has no chat template, its template drops the content, or nothing ends a turn.
    """

    prefix_ids: list[int]
    suffix_ids: list[int]
    end_ids: list[int]
    pad_id: int
    before_context_ids: list[int] | None
    after_context_ids: list[int] | None
    example_ids: list[int]

    def __init__(self, tokenizer: Any, instruction: str, context: str = ModelConfig.context_prompt) -> None:
        if not tokenizer.chat_template:
            raise UserError(
                f"The decoder's tokenizer ({tokenizer.name_or_path}) has no chat template; "
                "use an instruction-tuned model."
            )
        self.tokenizer = tokenizer
        self.instruction = instruction
        mark = _mark(f"{instruction} {tokenizer.chat_template}")
        before, after = self._around(mark, [("user", f"{mark}\n{instruction}")], add_generation_prompt=True)
        self.prefix_ids, self.suffix_ids = self.encode(before), self.encode(after)
        place = _mark(f"{instruction} {context} {tokenizer.chat_template} {mark}")
        line = context.replace("{context}", place)
        _, after = self._around(mark, [("user", f"{mark}\n{instruction}\n{line}")], add_generation_prompt=True)
        parts = re.split(place, after, flags=re.IGNORECASE)
        if len(parts) != 2:
            raise UserError(f"The chat template of {tokenizer.name_or_path} writes a context {len(parts) - 1} times.")
        # A space before the context is part of its first token, in most vocabularies.
        self.before_context_ids, self.after_context_ids = self.encode(parts[0].rstrip(" ")), self.encode(parts[1])
        self.end_ids = self._find_end(mark)
        self.pad_id = self.end_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.example_ids = []
        self._rendered = self.ids

    @classmethod
    def of(cls, tokenizer: Any, instruction: str, stored: dict[str, Any]) -> Prompt:
        """Return the prompt of an exported model from what `describe` stored, without rendering its template."""
        prompt = cls.__new__(cls)
        prompt.tokenizer, prompt.instruction = tokenizer, instruction
        prompt._rendered = {name: stored[name] for name in IDS} | {name: stored.get(name) for name in CONTEXT_IDS}
        prompt.adopt(None)
        prompt.example_ids = stored.get("example_ids", [])
        return prompt

    @property
    def end_id(self) -> int:
        """The token that ends the decoder's turn."""
        return self.end_ids[-1]

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a transcript, without tokens for the beginning or end of a text."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def context_ids(self, context: str) -> list[int]:
        """Return the tokens of a context, which are always tokens of plain text.

        Text that looks like a token of the chat template, such as the end of a turn, is spelled with other tokens.

        Args:
            context: as `text.clean_context` returns it; empty: there is none.

        Raises:
            UserError: the model takes no context.
        """
        if not context:
            return []
        if self.before_context_ids is None:
            raise UserError("this model was exported without a place for a context; export its checkpoint again.")
        return [part for token in self.encode(f" {context}") for part in self._spelled(token)]

    def suffix(self, context_ids: Sequence[int] = ()) -> list[int]:
        """Return the tokens after the audio, for a clip with or without a context."""
        if not context_ids:
            return self.suffix_ids
        assert self.before_context_ids is not None
        assert self.after_context_ids is not None
        return [*self.before_context_ids, *context_ids, *self.after_context_ids]

    def _spelled(self, token: int) -> list[int]:
        """Return a token of a text, or the tokens of its letters if it is one that no text should have."""
        if token not in self._control or token == self.tokenizer.unk_token_id:
            return [token]
        text = str(self.tokenizer.decode([token]))
        return [one for part in (text[:1], text[1:]) for one in self.encode(part) if one not in self._control]

    @property
    def line_end_id(self) -> int:
        """The token that ends a line of text."""
        return [self.end_id, *self.encode("\n")][-1]

    def set_examples(self, transcripts: Sequence[str]) -> None:
        """Set `example_ids`.

        A decoder that only sees the chat template expects punctuation and chat. A few transcripts show it what is
        written here: lower case, digits, the subject.
        """
        self.example_ids = [token for text in transcripts for token in self.line_ids(text)]

    def line_ids(self, text: str) -> list[int]:
        """Return the tokens of a line of text, with its end."""
        return [*self.encode(text), self.line_end_id]

    def target_ids(self, transcript: str) -> list[int]:
        """Return the target tokens: the transcript, then the end of the decoder's turn."""
        return [*self.encode(transcript), *self.end_ids]

    def pieces(self, token_ids: list[int]) -> list[str]:
        """Return the text of each token, also of special ones; a part of a character gives a replacement character."""
        return [str(self.tokenizer.decode([token])) for token in token_ids]

    def decode(self, token_ids: list[int]) -> str:
        """Return generated tokens as text, without special tokens and the end of the turn, whole or cut short."""
        for token in reversed(self.end_ids):  # not every tokenizer marks them as special
            if token_ids[-1:] == [token]:
                token_ids = token_ids[:-1]
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True)).strip()

    def describe(self) -> dict[str, Any]:
        """Return the data for a checkpoint: the token ids of the prompt, and a hash of the tokens of these ids.

        A template may write something else tomorrow, such as the date.
        """
        size = len(self.tokenizer)
        which = {"vocabulary_size": size, "vocabulary": self._fingerprint(size)}
        return {**self.ids, "example_ids": self.example_ids, **which}

    def adopt(self, stored: dict[str, Any] | None) -> bool:
        """Use the ids that `describe` returned in training; keep those of the template where nothing was stored.

        Returns:
            Whether that is possible: false where the ids mean other tokens, in another tokenizer.
        """
        if stored is not None:
            size = stored["vocabulary_size"]
            if size > len(self._tokens) or self._fingerprint(size) != stored["vocabulary"]:
                return False
        for name, rendered in self._rendered.items():
            setattr(self, name, (stored or self._rendered).get(name, rendered))
        self.example_ids = (stored or {}).get("example_ids", [])
        return True

    @property
    def ids(self) -> dict[str, Any]:
        """All ids around the audio, by name."""
        return {name: getattr(self, name) for name in (*IDS, *CONTEXT_IDS)}

    def _fingerprint(self, size: int) -> str:
        """Return a hash of the tokens of the ids below `size`, so that tokens that were added later change nothing."""
        return hashlib.sha256("\n".join(map(str, self._tokens[:size])).encode(errors="replace")).hexdigest()[:16]

    @cached_property
    def _tokens(self) -> list[str | None]:
        tokens: list[str | None] = self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
        return tokens

    @cached_property
    def _control(self) -> set[int]:
        """The tokens that plain text does not have: those that were added to the vocabulary, except white space."""
        added = self.tokenizer.added_tokens_decoder.items()  # some tokenizers add runs of white space
        return {token for token, text in added if str(text).strip()} | set(self.tokenizer.all_special_ids)

    def _find_end(self, mark: str) -> list[int]:
        """Return the tokens after an assistant's message, up to the first one that plain text does not have.

        Some templates write it at once, some only before the next turn (GLM-4), and some never: then it is the
        tokenizer's own end of a text.
        """
        turns = [("user", self.instruction), ("assistant", mark), ("user", self.instruction)]
        for conversation in (turns[:2], turns):
            try:
                ids = self.encode(self._around(mark, conversation)[1])
            except UserError:  # a template may refuse conversations that do not end with the user's turn
                continue
            for place, token in enumerate(ids):
                if token in self._control:
                    return ids[: place + 1]
        if self.tokenizer.eos_token_id is None:
            raise UserError(f"The decoder's tokenizer ({self.tokenizer.name_or_path}) has no end-of-sequence token.")
        return [self.tokenizer.eos_token_id]

    def _around(self, mark: str, turns: Turns, add_generation_prompt: bool = False) -> tuple[str, str]:
        """Render a conversation and return what stands before and after `mark`.

        Contents are strings, or lists of parts if the template needs those.
        """
        reason = "it is left out"
        for in_parts in (False, True):
            messages = [
                {"role": role, "content": [{"type": "text", "text": content}] if in_parts else content}
                for role, content in turns
            ]
            try:
                rendered = self.tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=add_generation_prompt, enable_thinking=False
                )
            except (TemplateError, TypeError, ValueError) as error:  # any error of a template for such contents
                reason = " ".join(str(error).split())
                continue
            parts = re.split(mark, rendered, flags=re.IGNORECASE)
            if len(parts) == 2:
                return parts[0], parts[1]
            if len(parts) > 2:
                reason = f"it is written {len(parts) - 1} times"
        name = self.tokenizer.name_or_path
        raise UserError(f"The chat template of {name} does not write the {turns[0][0]}'s message: {reason}.")


def _mark(texts: str) -> str:
    """Return a placeholder for the audio while a template is rendered: a word that occurs in none of `texts`.

    Letters and digits alone survive trimming, stripping and escaping. A template may change their case, so the search
    for the word ignores case.
    """
    return next(word for n in count() if (word := f"audio{n}audio") not in texts.lower())
