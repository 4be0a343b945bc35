"""Inference: from a checkpoint that a run left to transcripts, alone, in batches, and in pieces."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import tiny_models as make
from clips import write_bad_files
from runs import run_ta
from tiny_audio import audio as audio_module
from tiny_audio.audio import load_audio, load_long_audio, pad_waveforms
from tiny_audio.cli import main
from tiny_audio.config import SearchConfig
from tiny_audio.errors import UserError
from tiny_audio.inference import Recognizer, files, spans, transcribe_files
from tiny_audio.inference.spans import BEYOND, FRAME, SILENT_SHARE, cut, find_spans, halve
from tiny_audio.inference.transcribe import Decoding, piece_seconds_of
from tiny_audio.model import decoder as decoders
from tiny_audio.model.decoder import Decoder
from tiny_audio.model.graphed import GraphedRows
from tiny_audio.model.speech_llm import SpeechLLM, Written
from tiny_audio.training.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def recognizer(checkpoint) -> Recognizer:
    return Recognizer(checkpoint, "cpu")


def test_three_lines_of_python(recognizer, corpus):
    from_file = recognizer.transcribe(corpus / "dev0.flac").text
    assert from_file == recognizer.transcribe(load_audio(corpus / "dev0.flac")).text
    assert from_file


def test_a_recording_transcribes_the_same_alone_and_in_any_batch(recognizer, corpus):
    waveforms = [load_audio(path) for path in sorted(corpus.glob("dev*.flac"))]
    together = recognizer.transcribe_batch(waveforms)
    assert together == [recognizer.transcribe(waveform).text for waveform in waveforms]
    assert len(set(together)) > 1


def test_a_recording_with_its_context_transcribes_the_same_alone_and_in_any_batch(recognizer, corpus):
    paths = sorted(corpus.glob("dev*.flac"))
    contexts = [" ".join(["six", "seven"] * n) for n in range(len(paths))]
    together = recognizer.transcribe(paths, context=contexts)
    alone = [recognizer.transcribe(path, context=known) for path, known in zip(paths, contexts, strict=True)]
    assert together == alone
    plain = recognizer.transcribe(paths)
    assert together[0] == plain[0], "an empty context is none"
    assert sum(one != other for one, other in zip(together, plain, strict=True)) > len(paths) / 2
    assert recognizer.transcribe(paths, context="Six  SEVEN.")[1:3] == [
        recognizer.transcribe(path, context="six seven.") for path in paths[1:3]
    ], "one for all of them, in the form of what was taught"


def test_all_pieces_of_a_recording_have_its_context(recognizer, corpus):
    waveform = np.concatenate([load_audio(corpus / f"dev{i}.flac") for i in range(5)])
    assert len(recognizer.spans(waveform)) > 1
    found = recognizer.transcribe_segments([waveform], contexts=["one, two"])[0]
    pieces = [(waveform, span) for span in recognizer.spans(waveform)]
    each = recognizer.transcribe_pieces(pieces, contexts=["one, two"] * len(pieces))
    assert found == [segment for segments in each for segment in segments]
    assert found != recognizer.transcribe_segments([waveform])[0]


def test_a_recording_of_hours_is_read_from_a_file_and_has_the_same_transcript(
    recognizer, corpus, tmp_path, monkeypatch
):
    path = tmp_path / "long.wav"
    gap = np.zeros(16_000, np.float32)
    parts = [part for i in range(5) for part in (load_audio(corpus / f"dev{i}.flac"), gap)]
    soundfile.write(path, np.concatenate(parts), 16_000)
    expected = recognizer.transcribe(path)
    monkeypatch.setattr(audio_module, "SPOOLED_SECONDS", 1.0)
    monkeypatch.setattr(spans, "BLOCK", 5000)
    in_file = load_long_audio(path)
    assert not isinstance(in_file, np.ndarray)
    assert recognizer.spans(in_file) == recognizer.spans(load_audio(path)) != []
    assert recognizer.transcribe(path) == expected
    assert len(expected.segments) > 2


def test_contexts_that_cannot_be_read_are_one_line(recognizer, corpus, checkpoint, capsys):
    recording = corpus / "dev0.flac"
    with pytest.raises(UserError, match=r"the context has 1,200 characters, and may have 1,000; shorten it\."):
        recognizer.transcribe(recording, context="x" * 1200)
    for audio, count in ((recording, "one that is in no list"), ([recording] * 3, "3 recordings")):
        with pytest.raises(UserError, match=f"got 2 for {count}"):
            recognizer.transcribe(audio, context=["one", "two"])
    typed = ["infer", f"checkpoint={checkpoint}", f"audio={recording}"]
    assert main([*typed, f"context={'x' * 1200}"]) == 2
    assert "the context has 1,200 characters" in capsys.readouterr().err.splitlines()[-1]
    expected = recognizer.transcribe(recording, context="six, seven").text
    capsys.readouterr()
    assert main([*typed, "context=Six, seven"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == expected
    assert err.count("This model was trained without contexts; a context may have no effect, or do harm.") == 1
    assert main([*typed, "context="]) == 0
    assert "trained without contexts" not in capsys.readouterr().err


def test_cuts_are_the_cheapest_that_there_are():
    """Against all sets of cuts: a frame costs its level, relative to the loudest, less that of a pause."""
    rng, frames, longest, shortest = np.random.default_rng(0), 14, 6, 2
    for _ in range(5):
        level = rng.choice([0.001, 0.1, 0.5, 1.0], frames)
        waveform = np.repeat(level, FRAME).astype(np.float32) * np.tile([1, -1], frames * FRAME // 2)
        cost = level / np.sort(level)[-10] - SILENT_SHARE
        best = np.inf
        for chosen in (c for n in range(1, frames) for c in combinations(range(frames), n)):
            between = np.diff(chosen)
            ends = chosen[0] + 0.5, frames - chosen[-1] - 0.5
            if max(ends) <= longest and ((between >= shortest) & (between <= longest)).all():
                best = min(best, cost[list(chosen)].sum())
        spans = cut(waveform, 0, len(waveform), longest * 0.1)
        assert max(stop - start for start, stop in spans) <= longest * FRAME
        found = [stop // FRAME for _, stop in spans[:-1]]
        assert cost[found].sum() == pytest.approx(best, abs=1e-6)


def test_a_piece_beyond_the_limit_costs_less_than_a_cut_in_what_is_said():
    """Against all sets of cuts, with the price of longer pieces."""
    rng, frames, limit, longest = np.random.default_rng(1), 14, 5, 8

    def beyond(length: float) -> float:
        return np.inf if length > longest else BEYOND * max(length - limit, 0) / (longest - limit)

    for _ in range(8):
        level = rng.choice([0.001, 0.05, 0.1, 0.5, 1.0], frames)
        waveform = np.repeat(level, FRAME).astype(np.float32) * np.tile([1, -1], frames * FRAME // 2)
        cost = level / np.sort(level)[-10] - SILENT_SHARE

        def price(chosen, cost=cost):
            lengths = [chosen[0] + 0.5, *np.diff(chosen), frames - chosen[-1] - 0.5]
            return cost[list(chosen)].sum() + sum(map(beyond, lengths))

        best = min(price(c) for n in range(1, frames) for c in combinations(range(frames), n))
        spans = cut(waveform, 0, len(waveform), limit * 0.1, longest * 0.1)
        assert price([stop // FRAME for _, stop in spans[:-1]]) == pytest.approx(best, abs=1e-6)
    said = np.tile([0.5, -0.5], 4 * FRAME).astype(np.float32)  # eight frames without a pause
    assert cut(said, 0, len(said), limit * 0.1, longest * 0.1) == [(0, len(said))]
    said[3 * FRAME : 4 * FRAME] = 0
    assert len(cut(said, 0, len(said), limit * 0.1, longest * 0.1)) == 2, "there is a pause to cut in"


def test_pieces_begin_and_end_with_what_is_said():
    """As clips do: silence before a clip is what a model has hardly met."""
    waveform = np.full(6 * 16_000, 1e-4, np.float32)
    for second in (0.5, 2.5, 4.5):
        waveform[int(second * 16_000) : int((second + 1) * 16_000)] = 0.1
    spans = [(start / 16_000, stop / 16_000) for start, stop in find_spans(waveform, 2.0, 1.6)]
    assert spans == [(pytest.approx(s - 0.05), pytest.approx(s + 1.05)) for s in (0.5, 2.5, 4.5)]
    assert sum(stop - start for start, stop in find_spans(waveform, 0, 1.6)) == len(waveform), "nothing was to go"
    alone = waveform[: 2 * 16_000]
    assert find_spans(alone, 2.0, 3) == [(0, len(alone))], "what is not cut stays whole"


def test_a_voice_activity_model_says_where_the_pauses_are():
    """Noise between what is said is as loud as what is said; where it is quiet there is a pause as well."""
    rng = np.random.default_rng(0)
    waveform = (rng.standard_normal(8 * 16_000) * 0.1).astype(np.float32)
    speech = np.ones(len(waveform) // 512, np.float32)
    speech[int(3.2 * 31.25) : int(4.2 * 31.25)] = 0
    asked = []

    def activity(given):
        asked.append(len(given))
        return speech

    first, second = find_spans(waveform, 2.0, 5, 5, activity)
    assert (first[0], second[1]) == (0, len(waveform))
    assert first[1] / 16_000 == pytest.approx(3.2 + 0.05, abs=0.04)
    assert second[0] / 16_000 == pytest.approx(4.2 - 0.05, abs=0.04)
    assert find_spans(waveform, 2.0, 9, 9, activity) == [(0, len(waveform))]
    assert len(asked) == 1, "nothing was to be cut"
    waveform[int(1.6 * 16_000) :][:3200] = 0
    starts = [start / 16_000 for start, _ in find_spans(waveform, 2.0, 5, 5, activity)]
    assert starts == [0, pytest.approx(1.75), pytest.approx(4.15, abs=0.04)]
    nobody = find_spans(waveform, 2.0, 5, 5, lambda given: np.zeros_like(speech))
    assert nobody == find_spans(waveform, 2.0, 5, 5), "music, or what it does not hear as speech"


def test_a_long_recording_is_cut_at_its_quietest_place():
    rng = np.random.default_rng(0)
    waveform = (rng.standard_normal(70 * 16_000) * 0.1).astype(np.float32)
    for second in (25, 48):
        waveform[second * 16_000 : second * 16_000 + 8000] = 0
    spans = cut(waveform, 0, len(waveform), 30)
    assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
    assert spans[-1][1] == len(waveform)
    assert 25 <= spans[0][1] / 16_000 <= 25.5
    assert 48 <= spans[1][1] / 16_000 <= 48.5
    assert max(stop - start for start, stop in spans) <= 30 * 16_000
    first, second = halve(waveform, 15 * 16_000, 36 * 16_000)
    assert first[1] == second[0]
    assert 25 <= first[1] / 16_000 <= 25.5


def test_silences_of_seconds_are_left_out_and_short_ones_stay():
    """Silence is told from what is loud in the recording: it may hum."""
    rng = np.random.default_rng(0)
    waveform = (rng.standard_normal(20 * 16_000) * 0.1).astype(np.float32)
    for start, stop in ((0, 3), (5, 6.5), (8, 12), (17, 20)):
        waveform[int(start * 16_000) : int(stop * 16_000)] *= 0.005
    spans = [(start / 16_000, stop / 16_000) for start, stop in find_spans(waveform, 2.0, 30)]
    assert spans == [(pytest.approx(2.95), pytest.approx(8.05)), (pytest.approx(11.95), pytest.approx(17.05))]
    assert find_spans(waveform, 0, 30) == [(0, len(waveform))]
    assert find_spans(np.zeros(50_000, np.float32), 2.0, 30) == []
    assert find_spans(np.zeros(50_000, np.float32), 0, 30) == []
    short = waveform[3 * 16_000 :][:700]
    assert find_spans(short, 2.0, 30) == [(0, 700)]


def test_a_low_voice_beside_loud_music_is_no_silence():
    rng = np.random.default_rng(0)
    waveform = (rng.standard_normal(10 * 16_000) * 0.5).astype(np.float32)
    waveform[4 * 16_000 :] *= 0.008  # 42 dB lower
    assert find_spans(waveform, 2.0, 30) == [(0, len(waveform))]


def looping(monkeypatch, longest: float) -> list[list[float]]:
    """Have every piece longer than `longest` seconds loop; return the seconds of the pieces of each batch."""
    read: list[list[float]] = []

    def write(self, frames, lengths, max_new_tokens, guarded, contexts):
        assert guarded
        seconds = [length / 50 for length in lengths]
        read.append(seconds)
        return [Written("again" if s > longest else "fine", s > longest, False) for s in seconds]

    monkeypatch.setattr(SpeechLLM, "write", write)
    return read


def test_a_piece_that_loops_is_tried_again_in_halves(recognizer, monkeypatch):
    rng = np.random.default_rng(0)
    waveform = (rng.standard_normal(16 * 16_000) * 0.1).astype(np.float32)
    for second in (3, 8):
        waveform[second * 16_000 : second * 16_000 + 1600] = 0
    monkeypatch.setattr(recognizer, "piece_seconds", 30.0)
    looping(monkeypatch, longest=6)
    [segments] = recognizer.transcribe_segments([waveform])
    assert [segment.text for segment in segments] == ["fine"] * len(segments)
    assert {segment.flags for segment in segments} == {("retried",)}
    assert [segment.start for segment in segments[1:]] == [segment.end for segment in segments[:-1]]
    assert (segments[0].start, segments[-1].end) == (0, 16)
    assert any(8 <= segment.end <= 8.1 for segment in segments), "cut elsewhere: in the pause near the middle"


def test_a_loop_that_stays_is_told_and_ends(recognizer, monkeypatch):
    waveform = (np.random.default_rng(0).standard_normal(8 * 16_000) * 0.1).astype(np.float32)
    monkeypatch.setattr(recognizer, "piece_seconds", 30.0)
    read = looping(monkeypatch, longest=0)
    [segments] = recognizer.transcribe_segments([waveform])
    assert {segment.flags for segment in segments} == {("loop", "retried")}
    assert len(read) <= 4
    assert min(segment.end - segment.start for segment in segments) >= 1.0


def test_pieces_are_as_long_as_most_clips_that_were_trained_on(checkpoint, recognizer, corpus):
    seconds = sorted(len(load_audio(path)) / 16_000 for path in corpus.glob("train*.flac"))
    known = load_checkpoint(checkpoint)["clip_seconds"]
    assert sum(s <= known["p95"] + 1e-3 for s in seconds) / len(seconds) == pytest.approx(0.95, abs=0.02)
    assert known["max"] == pytest.approx(seconds[-1], abs=1e-3)
    assert (recognizer.piece_seconds, recognizer.longest_seconds) == (known["p95"], known["max"])
    assert piece_seconds_of({"clip_seconds": {"p95": 40.0, "max": 50.0}}) == (30, 30)
    assert piece_seconds_of({"config": {"data": {"max_audio_length": 12.0}}}) == (12, 12)
    assert piece_seconds_of({"clip_seconds": {"p95": 0.7, "max": 1.2}}) == (1.5, 1.5)
    assert piece_seconds_of({"clip_seconds": {"p95": 4.0}}) == (4, 4)
    chosen = Recognizer(checkpoint, "cpu", decoding=Decoding(piece_seconds=7.0))
    assert (chosen.piece_seconds, chosen.longest_seconds) == (7, 7)


@pytest.fixture(scope="module")
def aligning(run_settings, tmp_path_factory) -> Path:
    """A checkpoint with a CTC head."""
    folder = tmp_path_factory.mktemp("with_ctc")
    ctc = ["training.ctc_warmup_steps=1", "training.ctc_loss_weight=0.3", "model.search.ctc_weight=0.7"]
    ctc += ["model.search.audio=false", "model.search.examples=2"]
    status, log = run_ta(["train", *run_settings, "training.max_steps=1", *ctc], folder)
    assert status == 0, log
    return folder / "outputs/transcription/checkpoints/final.pt"


def test_words_of_a_long_recording_have_their_places_in_it(aligning, monkeypatch):
    """The pieces' own places, moved by where the pieces begin; the words are those of the text."""
    monkeypatch.setattr(
        SpeechLLM, "write", lambda self, frames, lengths, *_: [Written("one two", False, False) for _ in lengths]
    )
    recognizer = Recognizer(aligning, "cpu", decoding=Decoding(piece_seconds=3.0, silence_seconds=0))
    waveform = (np.random.default_rng(0).standard_normal(7 * 16_000 + 500) * 0.1).astype(np.float32)
    segments = recognizer.transcribe(waveform, word_timestamps=True).segments
    assert len(segments) > 2
    for segment in segments:
        assert segment.words is not None
        assert " ".join(word.text for word in segment.words) == segment.text
        edges = [edge for word in segment.words for edge in (word.start, word.end)]
        assert edges == sorted(edges)
        assert segment.start <= edges[0] < edges[-1] <= segment.end
        piece = waveform[round(segment.start * 16_000) : round(segment.end * 16_000)]
        (alone,) = recognizer.transcribe(piece, word_timestamps=True).segments
        assert alone.words is not None
        assert [word.start + segment.start for word in alone.words] == pytest.approx([w.start for w in segment.words])
        confidences = [word.confidence for word in segment.words]
        assert [word.confidence for word in alone.words] == pytest.approx(confidences, rel=1e-4)
    assert recognizer.transcribe(waveform).text == " ".join(segment.text for segment in segments)


def test_words_that_do_not_fit_into_the_audio_have_no_places(aligning, monkeypatch, corpus):
    text = " ".join(["one two three"] * 30)
    monkeypatch.setattr(SpeechLLM, "write", lambda self, frames, lengths, *_: [Written(text, False, False)])
    recognizer = Recognizer(aligning, "cpu", decoding=Decoding(word_timestamps=True))
    [[segment]] = recognizer.transcribe_segments([load_audio(corpus / "dev0.flac")])
    assert (segment.text, segment.words, segment.flags) == (text, None, ("unplaced",))


def test_silence_has_no_words_and_a_piece_without_text_none(aligning, monkeypatch, corpus):
    monkeypatch.setattr(SpeechLLM, "write", lambda self, frames, lengths, *_: [Written("", False, False)])
    recognizer = Recognizer(aligning, "cpu")
    assert recognizer.transcribe(np.zeros(50_000, np.float32), word_timestamps=True).segments == ()
    (segment,) = recognizer.transcribe(corpus / "dev0.flac", word_timestamps=True).segments
    assert (segment.words, segment.flags) == ((), ())


def test_a_checkpoint_that_cannot_place_words_says_how_to_train_one_that_can(checkpoint, recognizer, corpus, capsys):
    typed = [f"checkpoint={checkpoint}", f"audio={corpus / 'dev0.flac'}", "format=srt", "word_timestamps=true"]
    assert main(["infer", *typed, "device=cpu"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "this checkpoint lacks: train one with training.ctc_loss_weight=0.3" in error
    with pytest.raises(UserError, match="CTC head"):
        recognizer.transcribe(np.zeros(50_000, np.float32), word_timestamps=True)


def test_a_search_writes_the_same_of_a_recording_alone_and_in_a_batch(aligning, corpus):
    """With 3 beams, whose rows are reordered at each token, while clips of other lengths leave."""
    recognizer = Recognizer(aligning, "cpu", decoding=Decoding(beams=3, ctc_weight=2.0, max_new_tokens=8))
    waveforms = [load_audio(corpus / f"dev{n}.flac") for n in range(3)]
    together = recognizer.transcribe_batch(waveforms)
    assert together == [recognizer.transcribe_batch([waveform])[0] for waveform in waveforms]
    recognizer.model.search = SearchConfig(3, 2.0, audio=True)
    alone = [recognizer.transcribe_batch([waveform])[0] for waveform in waveforms]
    assert recognizer.transcribe_batch(waveforms) == alone
    greedy = Recognizer(aligning, "cpu", decoding=Decoding(max_new_tokens=8))
    assert greedy.model.search == SearchConfig(1, 0.7, False, 2), "as the checkpoint says"
    assert Recognizer(aligning, "cpu", decoding=Decoding(beams=2, prior_weight=0.4)).model.search == SearchConfig(
        2, 0.7, False, 2, 0.4
    )
    assert greedy.transcribe_batch(waveforms) != together


def test_a_search_in_a_batch_of_a_fixed_size_writes_the_same(aligning, corpus, monkeypatch):
    recognizer = Recognizer(aligning, "cpu", decoding=Decoding(beams=3, ctc_weight=2.0, max_new_tokens=8))
    waveforms = [load_audio(corpus / f"dev{n}.flac") for n in range(3)]
    expected = recognizer.transcribe_batch(waveforms)
    sizes = []

    def make(*given):
        sizes.append(given[-2:])
        return GraphedRows(*given, record=False)

    decoder = recognizer.model.decoder
    monkeypatch.setattr(decoders, "GraphedRows", make)
    monkeypatch.setattr(decoder, "_reading", replace(decoder.reading, graphed=True))
    monkeypatch.setattr(decoder, "cuda_graph", True)
    assert recognizer.transcribe_batch(waveforms) == expected
    assert sizes == [(9, 8)]


def test_a_text_that_ctc_hardly_finds_in_the_audio_is_dropped_and_told_once(aligning, corpus, caplog):
    """Whatever the untrained model writes: all of it within a high limit, none of it within a low one."""
    waveforms = [load_audio(corpus / f"dev{n}.flac") for n in range(3)]
    usual = Decoding(beams=3, ctc_weight=2.0, max_new_tokens=8)
    written = Recognizer(aligning, "cpu", decoding=usual).transcribe_batch(waveforms)
    assert any(written)
    assert Recognizer(aligning, "cpu", decoding=replace(usual, max_nats=1e6)).transcribe_batch(waveforms) == written
    assert "not written" not in caplog.text
    assert Recognizer(aligning, "cpu", decoding=replace(usual, max_nats=1e-6)).transcribe_batch(waveforms) == [""] * 3
    assert caplog.text.count("A text is not written: CTC hardly finds it in the audio") == 1


def test_a_text_that_ctc_hardly_finds_is_written_where_silence_would_cost_more(aligning, corpus):
    waveforms = [load_audio(corpus / f"dev{n}.flac") for n in range(3)]
    usual = Decoding(beams=3, ctc_weight=2.0, max_new_tokens=8)
    recognizer = Recognizer(aligning, "cpu", decoding=usual)
    written, model = recognizer.transcribe_batch(waveforms), recognizer.model
    costs = []
    for waveform in waveforms:
        tokens, counts = model.audio_tokens(*model.encoder(*pad_waveforms([waveform])))
        log_probs = model.ctc.all_log_probs(tokens.tokens, counts, model.decoder.embed)
        costs.append(-log_probs[0, :, 0].mean().item())
    strict = replace(usual, max_nats=1e-6)
    cheapest, *others = sorted(costs)
    for limit, kept in ((cheapest - 1e-3, 3), (cheapest + 1e-3, 2), (max(others) + 1e-3, 0)):
        recognizer = Recognizer(aligning, "cpu", decoding=strict)
        recognizer.model.search = replace(recognizer.model.search, speech_nats=limit)
        found = recognizer.transcribe_batch(waveforms)
        assert found == [text if cost >= limit else "" for text, cost in zip(written, costs, strict=True)]
        assert sum(cost >= limit for cost in costs) == kept


def test_a_decoder_without_audio_reads_transcripts_of_training_and_ends_a_line(aligning, corpus, monkeypatch, caplog):
    recognizer = Recognizer(aligning, "cpu", decoding=Decoding(beams=3, max_new_tokens=8))
    model, prompt = recognizer.model, recognizer.model.decoder.prompt
    lines = prompt.decode(prompt.example_ids).split("\n")
    spoken = {json.loads(line)["text"] for line in (corpus / "train.jsonl").read_text().splitlines()}
    assert len({*lines} & spoken) == len(lines) == 2
    read = []
    search = Decoder.search

    def watch(self, clips, scores, lexicon, *rest):
        read.append((clips, lexicon.end_ids))
        return search(self, clips, scores, lexicon, *rest)

    monkeypatch.setattr(Decoder, "search", watch)
    waveform = load_audio(corpus / "dev0.flac")
    recognizer.transcribe_batch([waveform])
    prompt.example_ids = []
    recognizer.transcribe(waveform, context="two")
    assert "trained without contexts" not in caplog.text, "a language model reads any text"
    ((shown,), with_line), ((bare,), without) = read
    ids = [*prompt.prefix_ids, *prompt.suffix_ids]
    assert torch.equal(shown[: len(ids)], model.decoder.embed(torch.tensor(ids)))
    examples = torch.tensor([id for line in lines for id in (*prompt.encode(line), prompt.line_end_id)])
    assert torch.equal(shown[len(ids) :], model.decoder.embed(examples))
    ids = [*prompt.prefix_ids, *prompt.suffix(prompt.context_ids("two"))]
    assert torch.equal(bare, model.decoder.embed(torch.tensor(ids)))
    assert prompt.line_end_id in with_line
    assert with_line == without, "a line ends a transcript also where no example has shown it"


def test_a_search_without_a_ctc_head_is_one_line(checkpoint, corpus, capsys):
    assert main(["infer", f"checkpoint={checkpoint}", f"audio={corpus / 'dev0.flac'}", "beams=4", "device=cpu"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "needs a CTC head" in error
    assert "or set beams to 1" in error


def test_every_bad_recording_gets_one_line_and_the_others_a_transcript(checkpoint, corpus, tmp_path):
    bad = write_bad_files(tmp_path)
    stereo = np.repeat(load_audio(corpus / "dev0.flac")[::2, None], 2, axis=1)
    soundfile.write(tmp_path / "stereo8k.mp3", stereo, 8000, format="MP3")
    names = [*bad, "stereo8k.mp3"]
    found = {
        Path(t.path).name: t for t in transcribe_files(str(checkpoint), [str(tmp_path / n) for n in names], "cpu", 4)
    }
    assert list(found) == names
    # What cannot be told from a whole file: cut short, but decodable.
    fine = {"stereo8k.mp3", "cut.wav", "cut.mp3", "long.flac"}
    for name, item in found.items():
        if name in fine:
            assert item.error is None
            assert item.text
        elif name == "silence.wav":
            assert (item.error, item.text) == (None, "")
        else:
            assert item.error is not None
            assert "\n" not in item.error
    assert found["long.flac"].seconds == 45


def test_command_line(checkpoint, corpus, capsys):
    one = str(corpus / "dev0.flac")
    assert main(["infer", f"checkpoint={checkpoint}", f"audio={one}", "device=cpu"]) == 0
    transcript = capsys.readouterr().out
    assert transcript.count("\n") == 1
    assert main(["infer", f"checkpoint={checkpoint}", f"audio={one},{corpus / 'dev1.flac'}", "device=cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{one}\t{transcript.strip()}"
    assert len(lines) == 2


def test_a_checkpoint_of_another_projector_is_refused(checkpoint, tmp_path):
    import torch

    content = torch.load(checkpoint, weights_only=True)
    content["weights"]["projector"]["linear_1.weight"] = torch.zeros(3, 3)
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"holds another projector: linear_1\.weight is \(3, 3\) there and \(64, 256\)"):
        Recognizer(tmp_path / "other.pt", "cpu")


def test_a_checkpoint_cut_in_half_is_one_line(checkpoint, corpus, tmp_path, capsys):
    (tmp_path / "half.pt").write_bytes(checkpoint.read_bytes()[:5000])
    assert main(["infer", f"checkpoint={tmp_path / 'half.pt'}", f"audio={corpus / 'dev0.flac'}"]) == 2
    error = capsys.readouterr().err.strip()
    assert "is damaged or not a checkpoint" in error
    assert "\n" not in error


def test_models_may_have_moved_but_not_changed(checkpoint, tiny_models, corpus, tmp_path):
    encoder = shutil.copytree(tiny_models.glm_asr, tmp_path / "encoder")
    decoder = make.save_qwen3(tmp_path / "decoder", seed=1)
    moved = Recognizer(checkpoint, "cpu", encoder=str(encoder))
    assert moved.transcribe(corpus / "dev0.flac") == Recognizer(checkpoint, "cpu").transcribe(corpus / "dev0.flac")
    with pytest.raises(UserError, match=r"was trained with model\.decoder=.*, and this run has .*decoder"):
        Recognizer(checkpoint, "cpu", decoder=str(decoder))


def test_pieces_are_read_a_few_at_a_time_with_the_same_result(recognizer):
    rng = np.random.default_rng(0)
    long = (rng.standard_normal(65 * 16_000) * 0.1).astype(np.float32)
    waveforms = [long, long[:20_000]]
    assert recognizer.transcribe_batch(waveforms, batch_size=1) == recognizer.transcribe_batch(waveforms, batch_size=9)


def test_recordings_of_like_length_meet_though_they_are_listed_in_turns(checkpoint, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    seconds, read = [0.5, 2.0, 0.6, 1.9, 0.55, 1.8], []
    paths = [str(tmp_path / f"{number}.wav") for number in range(6)]
    for path, length in zip(paths, seconds, strict=True):
        soundfile.write(path, rng.standard_normal(int(length * 16_000)).astype(np.float32) * 0.1, 16_000)
    write = SpeechLLM.write

    def watch(self, frames, lengths, *rest):
        read.append(lengths)
        return write(self, frames, lengths, *rest)

    monkeypatch.setattr(SpeechLLM, "write", watch)
    whole = Decoding(loop_guard=False, piece_seconds=3)
    made = list(transcribe_files(str(checkpoint), paths, "cpu", 3, decoding=whole))
    assert [one.path for one in made] == paths
    assert [round(one.seconds, 2) for one in made] == seconds
    assert [max(lengths) < 40 for lengths in read] == [True, False], "frames of 20 ms, in batches of three"


def test_long_recordings_are_not_read_ahead(monkeypatch):
    lengths = {"a": 100, "b": 700, "c": 10, "d": 10, "e": 10, "f": 10}
    monkeypatch.setattr(files, "_read", lambda path: np.zeros(lengths[path] * 16_000, dtype=np.float32))
    groups = [paths for paths, _ in files._read_ahead(list(lengths), 3)]
    assert groups == [["a", "b"], ["c", "d", "e"], ["f"]]
