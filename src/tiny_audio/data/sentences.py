"""Text without recordings: sentences from which a decoder that is CTC's language model learns the words of a domain.

Text is easier to get than recordings: reports, minutes, books. Its sentences are brought into the form of the
transcripts, and each transcript that is drawn for training is followed by some of them, as lines of one text.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from string import ascii_letters

import numpy as np
import torch

from ..config import DataConfig
from ..errors import UserError
from ..text import clean_transcript
from .loader import Batch, ClipDataset
from .plan import Draw
from .strings import Strings
from .textfiles import numbered_lines, open_text

logger = logging.getLogger(__name__)

STREAM = 6  # plan, augmentation, silence and contexts make their choices from the seed and 0 to 5
LINES = 3  # after each transcript
MAX_SENTENCES = 2_000_000  # about 200 MB
LENGTHS = (10, 300)  # shortest and longest sentence, in characters
BLOCK_LINES = 1_000  # the longest paragraph
_END = re.compile(r"(?<=[.!?;])[\"'\u201d\u2019)\]]*\s+|(?<=[\u3002\uff01\uff1f\uff1b])")  # of a sentence


class TextDataset(ClipDataset):
    """Turns lists of draws into batches of text: each clip's transcript, followed by sentences; no audio is read.

    Which sentences follow is a pure function of seed and draw, so it is the same in every process, and in a resumed
    run.

    Args:
        clips: what else reads these draws.
        tokenize: a line of text to tokens, its end included.
        texts: sentences to choose from; not empty.
        seed: of the choice.
    """

    def __init__(
        self, clips: ClipDataset, tokenize: Callable[[str], list[int]], texts: Sequence[str], seed: int
    ) -> None:
        super().__init__(clips.sources, tokenize, clips.data, contexts=clips.contexts)
        self.texts, self.seed = texts, seed

    def __getitems__(self, draws: Sequence[Draw]) -> Batch:
        """Read a batch without audio: all lengths are 0. Draws without a transcript, such as noise, are left out."""
        read = [draw for draw in draws if self.sources[draw.source].texts[draw.row]]
        transcripts = [self.sources[draw.source].texts[draw.row] for draw in read]
        lines = [[text, *self.after(draw.number)] for text, draw in zip(transcripts, read, strict=True)]
        return Batch(
            waveforms=torch.zeros(0, 0),
            num_samples=torch.zeros(len(read), dtype=torch.int64),
            target_ids=[torch.tensor([token for line in some for token in self.tokenize(line)]) for some in lines],
            transcripts=transcripts,
            names=[self.sources[draw.source].names[draw.row] for draw in read],
            sources=[draw.source for draw in read],
            draws=[draw.number for draw in read],
            seconds=[0.0] * len(read),
            context_ids=[torch.tensor(self.read_context(draw), dtype=torch.int64) for draw in read],
        )

    def after(self, number: int) -> list[str]:
        """Return the sentences after the transcript of the draw `number`: see `Draw.number`."""
        rows = np.random.default_rng([self.seed, STREAM, number]).integers(len(self.texts), size=LINES)
        return [self.texts[int(row)] for row in rows]


def alphabet_of(transcripts: Sequence[str]) -> frozenset[str]:
    """Return the characters that text may have: those of the transcripts; with one letter of a to z, all of these."""
    found = {" ", *"".join(transcripts)}
    return frozenset(found.union(ascii_letters) if found.intersection(ascii_letters) else found)


def read_sentences(path: Path, data: DataConfig, alphabet: frozenset[str]) -> Strings:
    """Return the sentences of a text file, in the form of transcripts.

    Prose may be broken into lines anywhere, with empty lines between its paragraphs. Text without punctuation has one
    sentence a line. A sentence with a character that no transcript has, such as a digit where numbers are written as
    words, is left out.

    Args:
        path: plain text in UTF-8 or another encoding that `open_text` knows, also compressed (.gz).
        data: the form of transcripts: case and punctuation.
        alphabet: see `alphabet_of`.

    Raises:
        UserError: the file cannot be read, or has no sentence that can be used.
    """
    left_out = 0

    def usable() -> Iterator[str]:
        nonlocal left_out
        for sentence in _sentences(path):
            text = clean_transcript(sentence, data.text_case, data.keep_punctuation)
            if not LENGTHS[0] <= len(text) <= LENGTHS[1]:
                continue
            if alphabet.issuperset(text):
                yield text
            else:
                left_out += 1

    found = Strings(islice(usable(), MAX_SENTENCES))
    if not len(found):
        raise UserError(
            f"data.text_path={path} has no sentence of {LENGTHS[0]} to {LENGTHS[1]} characters that is written as the "
            f"transcripts are ({left_out:,} have other characters)."
        )
    full = " (the first ones; no more are read)" if len(found) == MAX_SENTENCES else ""
    logger.info(
        "%s: %s sentences to learn words from%s; %s left out, for characters that no transcript has.",
        path.name,
        f"{len(found):,}",
        full,
        f"{left_out:,}",
    )
    return found


def _sentences(path: Path) -> Iterator[str]:
    for lines in _paragraphs(path):
        prose = " ".join(lines)
        yield from _END.split(prose) if _END.search(prose + " ") else lines


def _paragraphs(path: Path) -> Iterator[list[str]]:
    lines: list[str] = []
    with open_text(path, setting="data.text_path") as file:
        for _, line in numbered_lines(file):
            if line is not None and (text := line.strip()):
                lines.append(text)
            if lines and (line is None or not line.strip() or len(lines) == BLOCK_LINES):
                yield lines
                lines = []
    if lines:
        yield lines
