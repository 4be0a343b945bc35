"""Books to short fragments over their commonest words, split into what each part of the pocket pair may see.

A fragment is 3 to 6 consecutive words of one sentence, lower case, all of them among the commonest words. The
fragments of `dev` and `test` come from books of their own, and no other split holds one of them, nor a piece
or an extension of one.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import re
from collections import Counter
from pathlib import Path

MIN_WORDS, MAX_WORDS = 3, 6


def read_sentences(path: Path) -> dict[str, list[list[list[str]]]]:
    """Read `books.jsonl[.xz]`: one `{"split": "train" | "dev", "text": ...}` a line.

    Returns:
        Of each split its books, a book being a list of sentences, a sentence a list of lower-case words.
    """
    books: dict[str, list[list[list[str]]]] = {"train": [], "dev": []}
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            book = json.loads(line)
            text = book["text"].lower().replace("\u2019", "'")
            sentences = re.split(r"[.!?;:\n]+", text)
            books[book["split"]].append([re.sub(r"[^a-z' ]", " ", s).split() for s in sentences])
    return books


def commonest_words(books: list[list[list[str]]], count: int, min_book_share: float) -> set[str]:
    """Return the `count` commonest words found in at least `min_book_share` of the books (so few names)."""
    occurrences: Counter[str] = Counter()
    num_books: Counter[str] = Counter()
    for book in books:
        words = Counter(word for sentence in book for word in sentence)
        occurrences.update(words)
        num_books.update(words.keys())
    usable = (
        word
        for word, _ in occurrences.most_common()
        if num_books[word] >= min_book_share * len(books)
        and word.strip("'") == word
        and (len(word) > 1 or word in ("a", "i"))
    )
    return {word for word, _ in zip(usable, range(count), strict=False)}


def cut_fragments(books: list[list[list[str]]], vocabulary: set[str], rng: random.Random) -> list[str]:
    """Cut runs of words of the vocabulary into fragments of random length; each once, in random order."""
    fragments: dict[str, None] = {}  # insertion-ordered, unlike a set
    for sentence in (s for book in books for s in book):
        run: list[str] = []
        for word in [*sentence, ""]:
            if word in vocabulary:
                run.append(word)
                continue
            while len(run) >= MIN_WORDS:
                length = rng.randint(MIN_WORDS, MAX_WORDS)
                if length <= len(run):
                    fragments[" ".join(run[:length])] = None
                run = run[length:]
            run = []
    shuffled = list(fragments)
    rng.shuffle(shuffled)
    return shuffled


def pieces(fragment: str) -> set[str]:
    """Return all runs of at least three words of a fragment, itself included."""
    words = fragment.split()
    return {
        " ".join(words[start:end]) for start in range(len(words)) for end in range(start + MIN_WORDS, len(words) + 1)
    }


def main() -> None:
    """Write the splits as one JSON file: `{"vocabulary": [...], "encoder": [...], ...}`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("books", type=Path, help="books.jsonl or books.jsonl.xz")
    parser.add_argument("output", type=Path, help="the JSON file to write")
    parser.add_argument("--words", type=int, default=600, help="size of the vocabulary")
    parser.add_argument("--encoder", type=int, default=40_000, help="fragments spoken to the encoder")
    parser.add_argument("--train", type=int, default=3_600, help="fragments of the bundled train split")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    rng = random.Random(args.seed)
    books = read_sentences(args.books)
    vocabulary = commonest_words(books["train"], args.words, min_book_share=2 / 3)
    held_back = cut_fragments(books["dev"], vocabulary, rng)[: 200 + 12]
    held_back_pieces = set().union(*map(pieces, held_back))
    held_back_set = set(held_back)
    test = [fragment for fragment in held_back if len(fragment.split()) >= 5][:12]  # something to listen to
    others = [
        fragment
        for fragment in cut_fragments(books["train"], vocabulary, rng)
        if fragment not in held_back_pieces and held_back_set.isdisjoint(pieces(fragment))
    ]
    splits = {
        "vocabulary": sorted(vocabulary),
        "dev": [fragment for fragment in held_back if fragment not in test],
        "test": test,
        "train": others[: args.train],
        "encoder": others[args.train : args.train + args.encoder],
        "decoder": others[args.train + args.encoder :],
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(splits, indent=0), encoding="utf-8")
    for name, items in splits.items():
        print(f"{name:10} {len(items):7,}  {'; '.join(rng.sample(items, 3))}")


if __name__ == "__main__":
    main()
