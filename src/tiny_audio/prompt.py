"""The only place that knows what the decoder reads: chat template, audio position, target tokens.

One clip is read as ``prefix_ids | audio tokens | suffix_ids | target_ids``. Training and inference use the very same
prefix and suffix, an empty think block included where the template writes one, and the loss covers exactly
`target_ids`: the transcript, and what the template writes to end an assistant's turn.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from itertools import count
from typing import Any

from jinja2 import TemplateError

from .errors import UserError

Turns = Sequence[tuple[str, str]]  # role and content
IDS = ("prefix_ids", "suffix_ids", "end_ids", "pad_id")


class Prompt:
    """Token ids around the audio, for one tokenizer and one instruction.

    Attributes:
        prefix_ids, suffix_ids: before and after the audio.
        end_ids: that end the decoder's turn; the last of them is what generation stops at.
        pad_id: of what is written after the end, in a batch.

    Args:
        tokenizer: a `transformers` tokenizer with a chat template.
        instruction: what the user's turn asks for, after the audio.

    Raises:
        UserError: the tokenizer has no chat template, its template drops the content, or nothing ends a turn.
    """

    prefix_ids: list[int]
    suffix_ids: list[int]
    end_ids: list[int]
    pad_id: int

    def __init__(self, tokenizer: Any, instruction: str) -> None:
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
        self.end_ids = self._find_end(mark)
        self.pad_id = self.end_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self._rendered = self.ids

    @classmethod
    def of(cls, tokenizer: Any, instruction: str, stored: dict[str, Any]) -> Prompt:
        """Return what `describe` told of, for a tokenizer whose template writes nothing else (of an exported model)."""
        prompt = cls.__new__(cls)
        prompt.tokenizer, prompt.instruction = tokenizer, instruction
        prompt._rendered = {name: stored[name] for name in IDS}
        prompt.adopt(None)
        return prompt

    @property
    def end_id(self) -> int:
        """The token that ends the decoder's turn."""
        return self.end_ids[-1]

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a transcript, without any that begin or end a text."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def target_ids(self, transcript: str) -> list[int]:
        """Return the tokens that the decoder is taught to write: the transcript, then the end of its turn."""
        return [*self.encode(transcript), *self.end_ids]

    def pieces(self, token_ids: list[int]) -> list[str]:
        """Return the text of each token alone, special tokens too; part of a character is a replacement character."""
        return [str(self.tokenizer.decode([token])) for token in token_ids]

    def decode(self, token_ids: list[int]) -> str:
        """Return generated tokens as text, without special tokens and what ends the turn, whole or cut short."""
        for token in reversed(self.end_ids):  # not every tokenizer says that they are special
            if token_ids[-1:] == [token]:
                token_ids = token_ids[:-1]
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True)).strip()

    def describe(self) -> dict[str, Any]:
        """Return what a checkpoint stores: what is read around the audio, and which tokens those numbers stand for.

        A template may write something else tomorrow, such as the date.
        """
        size = len(self.tokenizer)
        return {**self.ids, "vocabulary_size": size, "vocabulary": self._fingerprint(size)}

    def adopt(self, stored: dict[str, Any] | None) -> bool:
        """Read from now on what `describe` returned in training; what the template writes, where nothing was stored.

        Returns:
            Whether it could be done: not where those numbers stand for other tokens, in another tokenizer.
        """
        if stored is not None:
            size = stored["vocabulary_size"]
            if size > len(self._tokens) or self._fingerprint(size) != stored["vocabulary"]:
                return False
        for name in self._rendered:
            setattr(self, name, (stored or self._rendered)[name])
        return True

    @property
    def ids(self) -> dict[str, Any]:
        """All that is read around the audio, by name."""
        return {name: getattr(self, name) for name in IDS}

    def _fingerprint(self, size: int) -> str:
        """Return a hash of the tokens of the ids below `size`: tokens that were added since then change nothing."""
        return hashlib.sha256("\n".join(map(str, self._tokens[:size])).encode(errors="replace")).hexdigest()[:16]

    @cached_property
    def _tokens(self) -> list[str | None]:
        tokens: list[str | None] = self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
        return tokens

    def _find_end(self, mark: str) -> list[int]:
        """Return what follows an assistant's message, up to the first token that is none of the text's.

        Some templates write it at once, some only before the next turn (GLM-4), and some not at all: then it is the
        tokenizer's own end of a text.
        """
        added = self.tokenizer.added_tokens_decoder.items()  # some tokenizers add runs of white space
        told = {token for token, text in added if str(text).strip()} | set(self.tokenizer.all_special_ids)
        turns = [("user", self.instruction), ("assistant", mark), ("user", self.instruction)]
        for conversation in (turns[:2], turns):
            try:
                ids = self.encode(self._around(mark, conversation)[1])
            except UserError:  # a template may refuse conversations that do not end with the user's turn
                continue
            for place, token in enumerate(ids):
                if token in told:
                    return ids[: place + 1]
        if self.tokenizer.eos_token_id is None:
            raise UserError(f"The decoder's tokenizer ({self.tokenizer.name_or_path}) has no end-of-sequence token.")
        return [self.tokenizer.eos_token_id]

    def _around(self, mark: str, turns: Turns, add_generation_prompt: bool = False) -> tuple[str, str]:
        """Render a conversation and return what stands before and after `mark`.

        Contents are strings, or lists of parts where the template wants those.
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
            except (TemplateError, TypeError, ValueError) as error:  # whatever it says to a content that it cannot read
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
    """Return what stands for the audio while a template is rendered: a word that occurs in none of `texts`.

    Letters and figures alone come through trimming, stripping and escaping; that their case may be changed is seen to
    where they are looked for.
    """
    return next(word for n in count() if (word := f"audio{n}audio") not in texts.lower())
