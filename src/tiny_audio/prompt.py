"""The only place that knows what the decoder reads: chat template, audio position, target tokens.

One clip is read as ``prefix_ids | audio tokens | suffix_ids | target_ids``. Training and inference use the very same
prefix and suffix, an empty think block included where the template writes one, and the loss covers exactly
`target_ids`: the transcript and the end-of-turn token.
"""

from __future__ import annotations

from typing import Any

from .errors import UserError

_AUDIO = "\x1daudio\x1d"  # stands for the audio while the template is rendered; never tokenized


class Prompt:
    """Token ids around the audio, for one tokenizer and one instruction.

    Args:
        tokenizer: a `transformers` tokenizer with a chat template and an end-of-turn token.
        instruction: what the user's turn asks for, after the audio.

    Raises:
        UserError: the tokenizer has no chat template or no end-of-turn token, or its template drops the content.
    """

    def __init__(self, tokenizer: Any, instruction: str) -> None:
        if not tokenizer.chat_template:
            raise UserError(
                f"The decoder's tokenizer ({tokenizer.name_or_path}) has no chat template; "
                "use an instruction-tuned model."
            )
        if tokenizer.eos_token_id is None:
            raise UserError(f"The decoder's tokenizer ({tokenizer.name_or_path}) has no end-of-sequence token.")
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": f"{_AUDIO}\n{instruction}"}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        before, found, after = rendered.partition(_AUDIO)
        if not found:
            raise UserError(f"The chat template of {tokenizer.name_or_path} does not write the user's message.")
        self._tokenizer = self.tokenizer = tokenizer
        self.instruction = instruction
        self.prefix_ids = self._encode(before)
        self.suffix_ids = self._encode(after)
        self.eos_id: int = tokenizer.eos_token_id
        self.pad_id: int = self.eos_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def target_ids(self, transcript: str) -> list[int]:
        """Return the tokens that the decoder is taught to write: the transcript, then the end of its turn."""
        return [*self._encode(transcript), self.eos_id]

    def pieces(self, token_ids: list[int]) -> list[str]:
        """Return the text of each token alone, special tokens too; part of a character is a replacement character."""
        return [str(self._tokenizer.decode([token])) for token in token_ids]

    def decode(self, token_ids: list[int]) -> str:
        """Return generated tokens as text, without special tokens."""
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=True)).strip()
