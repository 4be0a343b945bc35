"""A preview for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Console
from rich.text import Text

from .preview import AUDIO, TAUGHT, PreviewClip, Token, describe_lengths

STYLES = {AUDIO: "cyan", TAUGHT: "bold green"}
INDENT = 10
# White space that is part of a token has to be visible.
VISIBLE = str.maketrans({"\n": "⏎", "\t": "⇥", "\r": "␍"})


def print_preview(console: Console, clips: Sequence[PreviewClip]) -> None:
    """Print each clip: where it is from, its lengths, its transcripts, its tokens."""
    for number, clip in enumerate(clips, 1):
        console.print(Text.assemble((f"{number}. {clip.corpus}: {clip.name}", "bold"), f"  (draw {clip.draw:,})"))
        if clip.skipped is not None:
            field(console, "skipped", Text(clip.skipped, "red"))
            console.print()
            continue
        field(console, "length", Text(describe_lengths(clip)))
        if abs(clip.seconds - clip.listed_seconds) > 0.1:
            field(console, "", Text(f"listed as {clip.listed_seconds:.2f} s", "yellow"))
        field(console, "raw", Text(clip.raw))
        field(console, "taught", Text(clip.taught))
        if clip.context:
            field(console, "context", Text(clip.context))
        reads = [token for token in clip.tokens or () if token.part != TAUGHT]
        writes = [token for token in clip.tokens or () if token.part == TAUGHT]
        field(console, "reads", join(reads))
        field(console, "writes", join(writes, "|"))
        if not clip.given_back:
            field(console, "mismatch", Text(f"the target tokens decode to: {clip.written}", "bold red"))
        console.print()
    wrong = sum(clip.skipped is None and not clip.given_back for clip in clips)
    skipped = sum(clip.skipped is not None for clip in clips)
    verdict = [f"{len(clips)} clip{'s' * (len(clips) > 1)}"]
    verdict += [f"{skipped} would be skipped"] if skipped else []
    verdict += [f"{wrong} whose tokens decode to another text" if wrong else "all tokens decode to their transcript"]
    console.print(Text(", ".join(verdict) + ". The loss covers only what the decoder writes."))


def field(console: Console, name: str, value: Text) -> None:
    """Print a value after its name, indented on all of its lines."""
    lines = value.wrap(console, console.width - INDENT) or [Text()]
    for i, line in enumerate(lines):
        line.rstrip()
        console.print(Text.assemble(("" if i else f"  {name}".ljust(INDENT), "dim"), " " * INDENT * bool(i), line))


def runs(tokens: Sequence[Token]) -> Iterator[tuple[str, list[Token]]]:
    """Yield neighboring tokens of the same part together."""
    for part, group in groupby(tokens, lambda token: token.part):
        yield part, list(group)


def join(tokens: Sequence[Token], between: str = "") -> Text:
    """Return tokens as text; audio tokens as their number."""
    joined = Text()
    for part, group in runs(tokens):
        if part == AUDIO:
            joined.append(f"[{len(group)} audio tokens]", STYLES[AUDIO])
            continue
        for i, token in enumerate(group):
            joined.append(between if i else "", "dim")
            joined.append(visible(token.text), STYLES.get(part, "dim"))
    return joined


def visible(text: str) -> str:
    """Return a token's text with visible line ends."""
    return text.translate(VISIBLE)
