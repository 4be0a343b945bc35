"""What a run takes from its transcripts: word pieces, examples, and text for a decoder that only writes.

Such a decoder is CTC's language model (`model.search.audio=false`). If it trains, it does so on transcripts and, with
`data.text_path`, on text of the same domain without recordings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import Config
from ..data.loader import ClipDataset
from ..data.plan import SamplingPlan
from ..data.sentences import TextDataset, alphabet_of, read_sentences
from ..errors import ConfigError, UserError
from ..model.speech_llm import SpeechLLM
from ..pieces import WordPieces

TRANSCRIPTS = 50_000  # that are searched for word pieces, which takes some seconds


def first_transcripts(plan: SamplingPlan, dataset: ClipDataset) -> list[str]:
    """Return the transcripts of the plan's first clips, of all where there are at most `TRANSCRIPTS`."""
    counted = [source.percent == 100 for source in dataset.sources]  # the other speeds have the same transcripts
    wanted = min(sum(len(source) for source in dataset.sources if source.percent == 100), TRANSCRIPTS)
    draws = 4 * wanted * len(counted) // sum(counted)  # a small corpus beside a large one repeats early
    seen: set[tuple[int, int]] = set()
    transcripts: list[str] = []
    for number in range(-(-draws // plan.batch_size)):
        for draw in plan.batch(number):
            if (clip := (draw.source, draw.row)) not in seen and counted[draw.source]:
                seen.add(clip)
                transcripts.append(dataset.sources[draw.source].texts[draw.row])
        if len(seen) >= wanted:
            break
    return transcripts


def learn_pieces(tokenizer: Any, transcripts: Sequence[str], min_count: int) -> tuple[Tensor, Tensor]:
    """Find the word pieces of transcripts: see `WordPieces.learn`.

    Returns:
        (V,) int64 token ids in order, and (V,) fp32 log-probabilities.
    """
    found = sorted(WordPieces.learn(tokenizer, transcripts, min_count).log_probs.items())
    return torch.tensor([piece for piece, _ in found]), torch.tensor([value for _, value in found])


def choose_examples(transcripts: Sequence[str], count: int) -> list[str]:
    """Return `count` transcripts that differ, of nearly the median length."""
    texts = [text for text in dict.fromkeys(transcripts) if text]
    median = sorted(map(len, texts))[len(texts) // 2] if texts else 0
    return sorted(texts, key=lambda text: abs(len(text) - median))[:count]


def prepare_search(config: Config, model: SpeechLLM, plan: SamplingPlan, dataset: ClipDataset) -> None:
    """Give the model a CTC head and examples, if it needs some; a checkpoint may have brought its own.

    Args:
        config: `training.ctc_min_count`, and whether CTC is trained at all.
        model: not wrapped.
        plan, dataset: of the run.
    """
    training, prompt = config.training, model.decoder.prompt
    if training.num_ctc_steps + training.ctc_loss_weight <= 0:
        return
    lacks_examples = not model.search.audio and not prompt.example_ids
    transcripts = first_transcripts(plan, dataset) if model.ctc is None or lacks_examples else []
    if model.ctc is None:
        model.add_ctc(*learn_pieces(prompt.tokenizer, transcripts, training.ctc_min_count))
    if lacks_examples:
        prompt.set_examples(choose_examples(transcripts, model.search.examples))


def check_language_model(config: Config) -> None:
    """Refuse steps that train nothing, and text that nothing reads, before anything slow is loaded.

    Raises:
        ConfigError: says what to set.
        UserError: there is no such text.
    """
    model, text = config.model, config.data.text_path
    if text is not None and (model.search.reads_audio or not config.training.max_steps):
        raise ConfigError(
            "data.text_path is read in the steps of a decoder that reads no audio: set model.search.beams=8, "
            "model.search.audio=false, model.use_lora=true and training.max_steps=150 (as experiment=laptop_text does)."
        )
    if text is not None and not Path(text).is_file():
        raise UserError(f"data.text_path={text}: there is no such file.")
    if model.search.reads_audio:
        return
    trains = not model.freeze_decoder or (model.use_lora and not model.freeze_lora)
    if config.training.max_steps and not trains:
        raise ConfigError(
            "model.search.audio=false: the decoder reads no audio, so the steps after the CTC warm-up only teach it "
            "words, and it is frozen: set model.use_lora=true, or training.max_steps=0."
        )


def open_texts(config: Config, model: SpeechLLM, plan: SamplingPlan, dataset: ClipDataset) -> TextDataset | None:
    """Return what the steps of a decoder that reads no audio train on; None if it reads audio, or there are none.

    Raises:
        UserError: the file of `data.text_path` cannot be used.
    """
    if model.reads_audio or not config.training.max_steps:
        return None
    texts: Sequence[str] = [text for text in first_transcripts(plan, dataset) if text]
    if config.data.text_path is not None:
        texts = read_sentences(Path(config.data.text_path), config.data, alphabet_of(texts))
    return TextDataset(dataset, model.tokenize, texts, config.training.seed)
