"""Decoder and CTC together: prefix scores against all paths, the search against all texts."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tiny_audio.config import SearchConfig
from tiny_audio.model import joint, prefixes
from tiny_audio.model.joint import Lexicon, search_rows
from tiny_audio.model.prefixes import PrefixScores
from tiny_audio.pieces import WordPieces

COUNTS = [5, 3]
NUM_CLASSES = 4
ONE = torch.tensor([0])  # the first prefix of a state


@pytest.fixture
def log_probs():
    return (
        torch.randn(2, max(COUNTS), NUM_CLASSES, generator=torch.Generator().manual_seed(0))
        .double()
        .mul(2)
        .log_softmax(2)
    )


def read_off(path):
    """What a path says: without repeats, without blanks."""
    return tuple(piece for piece, _ in itertools.groupby(path) if piece)


def probabilities(log_probs, count):
    """The probability of each text, by going through all paths of a clip."""
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(NUM_CLASSES), repeat=count):
        text = read_off(path)
        found[text] = found.get(text, 0.0) + math.exp(sum(float(log_probs[t, c]) for t, c in enumerate(path)))
    return found


@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("text", [(1,), (1, 2), (2, 2), (3, 3, 3), (1, 2, 1)])
def test_a_prefix_is_as_likely_as_all_paths_that_begin_with_it(log_probs, clip, text):
    scores, clips = PrefixScores(log_probs, COUNTS), torch.tensor([clip])
    state = scores.start(clips)
    for piece in text:
        state, said = scores.extend(clips, state, ONE, torch.tensor([piece]))
    every = probabilities(log_probs[clip], COUNTS[clip])
    begins = sum(value for other, value in every.items() if other[: len(text)] == text)
    assert float(said.exp()) == pytest.approx(begins, rel=1e-9)
    assert float(scores.whole(clips, state).exp()) == pytest.approx(every.get(text, 0.0), abs=1e-9)


@pytest.mark.parametrize("clip", [0, 1])
def test_what_comes_next_is_what_a_longer_prefix_says(log_probs, clip):
    scores, clips = PrefixScores(log_probs, COUNTS), torch.tensor([clip])
    state = scores.start(clips)
    for piece in (2, 1):
        heard = scores.next_pieces(clip, state)
        for other in range(1, NUM_CLASSES):
            assert float(heard[0, other]) == pytest.approx(
                float(scores.extend(clips, state, ONE, torch.tensor([other]))[1]), abs=1e-6
            )
        state, _ = scores.extend(clips, state, ONE, torch.tensor([piece]))


def added(one, other):
    """The logarithm of a sum."""
    small, large = sorted((one, other))
    return large if small == -math.inf else large + math.log1p(math.exp(small - large))


def in_logarithms(log_probs, text):
    """The recursion as it is written in papers, for one clip: log-probabilities that speech begins so, and is this."""
    rows, before = log_probs.tolist(), 0
    piece = [-math.inf] * (len(rows) + 1)
    blank = [0.0, *itertools.accumulate(row[0] for row in rows)]
    for number in text:
        enters = [b if number == before else added(p, b) for p, b in zip(piece, blank, strict=True)]
        piece, blank, said, before = [-math.inf], [-math.inf], -math.inf, number
        for t, row in enumerate(rows):
            said = added(said, enters[t] + row[number])
            blank.append(added(blank[-1], piece[-1]) + row[0])
            piece.append(added(piece[-1], enters[t]) + row[number])
    return said, added(piece[-1], blank[-1])


@pytest.mark.parametrize("sharpness", [1.0, 12.0])
@pytest.mark.parametrize("hidden", [1.0, 1e-9])
def test_long_clips_have_the_scores_of_the_recursion_in_logarithms(sharpness, hidden):
    # Of the flat ones even the likeliest path is improbable, of the sharp ones a wrong text.
    log_probs = torch.randn(1, 240, 6, generator=torch.Generator().manual_seed(1)).double().mul(sharpness)
    log_probs = log_probs.log_softmax(2)
    log_probs[:, 60:120] += math.log(hidden)  # as if much of the speech were unheard of
    heard = read_off(log_probs[0].argmax(1).tolist())
    scores, clips = PrefixScores(log_probs, [240]), ONE
    assert len(scores._stretches) > 1 or hidden == 1.0
    for text in (heard, heard[::2], (*heard[:40], *heard[80:]), heard[:3]):
        state = scores.start(clips)
        for piece in text:
            state, said = scores.extend(clips, state, ONE, torch.tensor([piece]))
        begins, whole = in_logarithms(log_probs[0], text)
        assert float(said) == pytest.approx(begins, rel=1e-9)
        for following in (text[-1], text[-1] % 5 + 1):
            longer, _ = in_logarithms(log_probs[0], (*text, following))
            assert float(scores.next_pieces(0, state)[0, following]) == pytest.approx(longer, rel=1e-9)
        assert float(scores.whole(clips, state)) == pytest.approx(whole, rel=1e-9) or whole < begins - 700


def test_nothing_said_is_all_blank(log_probs):
    scores = PrefixScores(log_probs, COUNTS)
    clips = torch.tensor([0, 1])
    whole = scores.whole(clips, scores.start(clips))
    expected = [float(log_probs[i, :count, 0].sum()) for i, count in enumerate(COUNTS)]
    assert whole.tolist() == pytest.approx(expected)


class Letters:
    """A tokenizer of few tokens, one of which is a word of two letters."""

    NAMES = ("a", "b", "\u0120", "ab", "<end>")
    all_special_ids = (4,)

    def __len__(self):
        return len(self.NAMES)

    def get_vocab(self):
        return {name: n for n, name in enumerate(self.NAMES)}

    def convert_ids_to_tokens(self, ids):
        return [self.NAMES[n] for n in ids]


END, LONGEST = 4, 3


@pytest.fixture
def lexicon():
    tokenizer = Letters()
    split = WordPieces(tokenizer, {0: -0.5, 1: -1.5, 2: -1.7})  # CTC hears letters, and the decoder writes "ab" too
    return Lexicon(tokenizer, split, torch.tensor([0, 1, 2]), {END})


class Bigrams:
    """A decoder whose next token depends on the last one, and on the clip."""

    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)
        self.tables = torch.randn(2, 6, 5, generator=generator).mul(2).log_softmax(2)  # clip, last (5: none), next
        self.rows = [(0, 5), (1, 5)]

    def log_probs(self):
        return torch.stack([self.tables[clip, last] for clip, last in self.rows])

    def step(self, tokens, origins):
        self.rows = [(self.rows[row][0], token) for row, token in zip(origins, tokens.tolist(), strict=True)]

    def score(self, clip, tokens):
        steps = itertools.pairwise((5, *tokens, END))
        return sum(float(self.tables[clip, last, token]) for last, token in steps)


RARITIES = {1: 0.5, 2: 1.5, 3: 1.7}


@pytest.mark.parametrize("prior", [0.0, 0.7])
@pytest.mark.parametrize("weight", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_search_finds_the_best_of_all_texts(log_probs, lexicon, seed, weight, prior):
    decoder = Bigrams(seed)
    written, *_ = search_rows(
        decoder.log_probs,
        decoder.step,
        PrefixScores(log_probs, COUNTS),
        lexicon,
        SearchConfig(100, weight, prior_weight=prior),
        [LONGEST] * 2,
    )
    letters = {0: (1,), 1: (2,), 2: (3,), 3: (1, 2)}
    for clip, count in enumerate(COUNTS):
        every = probabilities(log_probs[clip], count)
        best = max(
            (tokens for n in range(LONGEST + 1) for tokens in itertools.product(range(4), repeat=n)),
            key=lambda tokens: (
                decoder.score(clip, tokens)
                + weight * math.log(every.get(tuple(c for t in tokens for c in letters[t]), 0.0) or 1e-300)
                + prior * sum(RARITIES[c] for t in tokens for c in letters[t])
            ),
        )
        assert tuple(written[clip]) == best


class Words(Letters):
    """A tokenizer of all words of up to two letters, with and without a space before them."""

    SPELLINGS = tuple("".join(some) for size in (1, 2) for some in itertools.product("abc", repeat=size))
    NAMES = ("\u0120", *SPELLINGS, *("\u0120" + word for word in SPELLINGS), "<end>")
    all_special_ids = (len(NAMES) - 1,)


CLIPS = [0, 0, 1, 3, 3, 3]  # of six begun texts; clip 2 has ended
BEGUN = [(), (2,), (1, 3), (4,), (1,), (2, 2)]  # their pieces


def beam_of_words(tried, monkeypatch):
    """Texts of several clips, CTC's classes being blank, the space, a, b, c; and the decoder's log-probabilities."""
    monkeypatch.setattr(joint, "TRIED_BY_LETTERS", tried)
    tokenizer = Words()
    split = WordPieces(tokenizer, {0: -1.0, 1: -1.5, 2: -1.7, 3: -2.5})
    lexicon = Lexicon(tokenizer, split, torch.arange(4), {len(Words.NAMES) - 1})
    heard = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(3)).mul(3).log_softmax(2)
    scores, search = PrefixScores(heard, [9, 6, 2, 8]), SearchConfig(4, 0.8, prior_weight=0.6)
    beam = joint._Beam(scores, lexicon, search, [5] * 4)
    states = []
    for clip, pieces in zip(CLIPS, BEGUN, strict=True):
        state = scores.start(torch.tensor([clip]))
        for piece in pieces:
            state, _ = scores.extend(torch.tensor([clip]), state, ONE, torch.tensor([piece]))
        states.append(state)
    beam.hypotheses = [joint.Hypothesis(clip, (), 0.0, "", 0, 0.0, 0.0) for clip in CLIPS]
    beam.now = joint.PrefixState(*(torch.cat(parts, -1) for parts in zip(*states, strict=True)))
    return beam, torch.randn(6, len(Words.NAMES), generator=torch.Generator().manual_seed(4)).log_softmax(1)


def worth(beam, log_probs, row, token):
    """The score of a text with one more token, from its pieces one by one."""
    clips, state, said = torch.tensor(CLIPS[row : row + 1]), beam.now.select(torch.tensor([row])), 0.0
    for piece in beam.lexicon.spell(Words.NAMES[token]):
        state, value = beam.scores.extend(clips, state, ONE, torch.tensor([piece]))
        said = float(value)
    return float(log_probs[row, token]) + 0.8 * said + 0.6 * beam.lexicon.rarity(Words.NAMES[token])


@pytest.mark.parametrize("most", [joint.MAX_SCORES, 11])  # of scores at once
@pytest.mark.parametrize("tried", [(25, 25, 25), (99, 99, 99), (20, 12, 5)])
def test_the_tokens_that_are_tried_are_the_best_by_all_their_pieces(tried, most, monkeypatch):
    for module in (joint, prefixes):
        monkeypatch.setattr(module, "MAX_SCORES", most)
    beam, log_probs = beam_of_words(tried, monkeypatch)
    tokens, possible = beam._choose(log_probs)
    for row in range(len(CLIPS)):
        best = sorted(range(len(Words.NAMES) - 1), key=lambda token: -worth(beam, log_probs, row, token))
        found = [token for token, can in zip(tokens[row].tolist(), possible[row].tolist(), strict=True) if can]
        places = [best.index(token) for token in found]
        assert places == sorted(places)
        assert places[:3] == [0, 1, 2]
        assert len(places) == min(tried[-1], len(best))


def test_a_token_that_begins_as_others_do_is_told_from_them_by_what_follows(monkeypatch):
    beam, _ = beam_of_words((15, 8, 3), monkeypatch)
    heard = torch.full((1, 9, 5), -9.0)
    heard[0, torch.arange(9), torch.tensor([1, 0, 4, 4, 0, 2, 0, 0, 0])] = 0.0  # a space, "c", "a"
    beam.scores = PrefixScores(heard.log_softmax(2), [9])
    beam.hypotheses, beam.now = beam.hypotheses[:1], beam.scores.start(torch.tensor([0]))
    unsure = torch.zeros(1, len(Words.NAMES)).log_softmax(1)
    unsure[0, Words.NAMES.index("\u0120ca")] -= 2  # the decoder prefers all the others
    tokens, _ = beam._choose(unsure)
    assert {Words.NAMES[token] for token in tokens[0].tolist()} == {"\u0120", "\u0120c", "\u0120ca"}


def test_a_clip_is_written_alone_as_beside_another(log_probs, lexicon):
    both, alone = Bigrams(1), Bigrams(1)
    alone.rows = [(1, 5)]
    search = SearchConfig(3, 0.5)
    together, *_ = search_rows(both.log_probs, both.step, PrefixScores(log_probs, COUNTS), lexicon, search, [6, 6])
    scores = PrefixScores(log_probs[1:, : COUNTS[1]], COUNTS[1:])
    by_itself, *_ = search_rows(alone.log_probs, alone.step, scores, lexicon, search, [6])
    assert together[1] == by_itself[0]


class Spelled(Letters):
    """A tokenizer of the letters and of one long token."""

    NAMES = ("a", "b", "c", "d", "e", "f", "abcde", "<end>")
    all_special_ids = (7,)


@pytest.mark.parametrize("rarity", [3.0, 5.0, 8.0])
def test_a_text_that_lags_behind_a_finished_one_by_several_pieces_may_still_win(rarity):
    heard = torch.full((1, 10, 7), -12.0)
    heard[0, torch.arange(10), torch.tensor([1, 0, 2, 0, 3, 0, 4, 0, 5, 0])] = 0.0  # a b c d, and then e or f
    heard[0, 8, 6] = 0.0
    likely = {(): {0: 0.0, 6: -4.0}, (0,): {1: 0.0}, (0, 1): {2: 0.0}, (0, 1, 2): {3: 0.0}, (0, 1, 2, 3): {5: 0.0}}
    rows: list[tuple[int, ...]] = [()]

    def log_probs():
        found = torch.full((len(rows), 8), -20.0)
        for row, text in enumerate(rows):
            for token, value in likely.get(text, {7: 0.0}).items():
                found[row, token] = value
        return found.log_softmax(1)

    def step(tokens, origins):
        rows[:] = [(*rows[row], token) for row, token in zip(origins, tokens.tolist(), strict=True)]

    lexicon = Lexicon(Spelled(), WordPieces(Spelled(), dict.fromkeys(range(6), -rarity)), torch.arange(6), {7})
    scores, search = PrefixScores(heard.log_softmax(2), [10]), SearchConfig(8, 0.9, prior_weight=1.0)
    written, *_ = search_rows(log_probs, step, scores, lexicon, search, [8])
    assert written == [[0, 1, 2, 3, 5]]


def test_a_clip_without_an_audio_token_says_nothing(lexicon):
    decoder = Bigrams(0)
    scores = PrefixScores(torch.zeros(2, 0, NUM_CLASSES), [0, 0])
    assert scores.whole(ONE, scores.start(ONE)).tolist() == [0.0]
    written, cut, _ = search_rows(decoder.log_probs, decoder.step, scores, lexicon, SearchConfig(4, 1.0), [5, 5])
    assert (written, cut) == ([[], []], [False, False])


def test_a_tokenizer_may_know_more_tokens_than_its_model(log_probs, lexicon):
    decoder = Bigrams(1)
    expected = Bigrams(1)
    lexicon.starts = torch.cat(
        (lexicon.starts, torch.nn.functional.pad(torch.tensor([[1], [2]]), (0, len(lexicon.tried) - 1)))
    )
    scores, search = PrefixScores(log_probs, COUNTS), SearchConfig(50, 1.0)
    found = search_rows(decoder.log_probs, decoder.step, scores, lexicon, search, [4, 4])
    lexicon.starts = lexicon.starts[:-2]
    assert found == search_rows(expected.log_probs, expected.step, scores, lexicon, search, [4, 4])


def test_the_limit_of_tokens_is_told(lexicon):
    heard = torch.full((1, 8, NUM_CLASSES), -9.0)
    heard[0, torch.arange(8), torch.tensor([1, 2, 1, 2, 1, 2, 1, 2])] = 0.0  # a b a b a b a b
    decoder = Bigrams(0)
    decoder.rows = [(0, 5)]
    scores = PrefixScores(heard.log_softmax(2), [8])
    written, cut, _ = search_rows(decoder.log_probs, decoder.step, scores, lexicon, SearchConfig(4, 10.0), [2])
    assert len(written[0]) == 2
    assert cut == [True]


def test_a_token_that_ctc_cannot_say_is_not_written(log_probs, lexicon):
    lexicon.starts[0] = 0
    decoder = Bigrams(2)
    scores = PrefixScores(log_probs, COUNTS)
    written, *_ = search_rows(decoder.log_probs, decoder.step, scores, lexicon, SearchConfig(50, 1.0), [4, 4])
    assert all(0 not in tokens for tokens in written)


def test_what_a_piece_of_the_text_costs_ctc_is_told(log_probs, lexicon):
    decoder = Bigrams(1)
    scores = PrefixScores(log_probs, COUNTS)
    written, _, nats = search_rows(decoder.log_probs, decoder.step, scores, lexicon, SearchConfig(50, 1.0), [4, 4])
    letters = {0: (1,), 1: (2,), 2: (3,), 3: (1, 2)}
    for clip, count in enumerate(COUNTS):
        pieces = tuple(c for t in written[clip] for c in letters[t])
        expected = -math.log(probabilities(log_probs[clip], count)[pieces]) / len(pieces)
        assert nats[clip] == pytest.approx(expected)
