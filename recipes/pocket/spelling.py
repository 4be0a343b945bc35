"""Text as a projector will deliver it: a few characters in each slot of 80 ms, some of them wrong."""

from __future__ import annotations

import random

SLOTS_PER_SECOND = 12.5  # audio tokens a second when four encoder frames are stacked
SOUND_ALIKE = ("aeiouy", "aou", "ei", "ckqg", "bp", "td", "szc", "fv", "mn", "rl", "gj", "wu", "h'")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def misheard(character: str, rng: random.Random) -> str:
    """Return another letter for a letter: one that sounds like it in two of three cases."""
    alike = [c for group in SOUND_ALIKE if character in group for c in group if c != character]
    return rng.choice(alike if alike and rng.random() < 2 / 3 else LETTERS)


def spell(text: str, rng: random.Random, difficulty: float = 1.0) -> list[str]:
    """Spread a text over slots of 80 ms at a random, uneven pace, with a random share of errors.

    Returns:
        The characters of each slot: none, one, two or three of them; first and last slots may be empty.
    """
    errors = rng.uniform(0.0, 0.2 * difficulty)
    seconds_each = 1 / rng.uniform(11.0, 21.0)  # speech has 12 to 19 characters a second
    slots: dict[int, str] = {}
    time = rng.uniform(0.03, 0.2)
    for character in text:
        time += seconds_each * rng.gammavariate(3.0, 1 / 3)
        drawn = rng.random()
        if drawn < 0.3 * errors:
            continue
        if drawn < 0.8 * errors and character != " ":
            character = misheard(character, rng)
        slot = int(time * SLOTS_PER_SECOND)
        if len(slots.get(slot, "")) >= 3:
            slot += 1
        slots[slot] = slots.get(slot, "") + character
        if drawn > 1 - 0.2 * errors:  # heard twice
            slots[slot + 1] = slots.get(slot + 1, "") + character
    end = int((time + rng.uniform(0.0, 0.2)) * SLOTS_PER_SECOND) + 1
    return [slots.get(slot, "") for slot in range(max(end, max(slots, default=0) + 1))]
