"""Fragments to speech: the encoder's pretraining clips (`clips`) and the bundled corpus (`corpus`).

The voices of the corpus's dev and test splits, and their variants under any accent, are in no other split and
never reach the encoder. Half of the train voices are new to it too, so that a projector trained on this
corpus sees features of both kinds.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from espeak import Espeak, variants

from tiny_audio.data.packed import pack
from tiny_audio.lengths import SAMPLE_RATE

ACCENTS = {  # accent: weight among the pretraining clips; plain `en` is British
    "en-us": 4,
    "en": 3,
    "en-gb-x-rp": 2,
    "en-gb-scotland": 2,
    "en-us-nyc": 1,
    "en-gb-x-gbclan": 1,
    "en-gb-x-gbcwmd": 1,
    "en-029": 1,
}
VOICES = {
    "train": (
        *("en-us+m2", "en+Andy", "en-us+f1", "en-gb-x-rp+pablo", "en-us+steph2", "en-gb-scotland+marcelo"),
        *("en-us+m1", "en+f5", "en-us+m7", "en+Denis", "en-gb-x-rp+Alicia", "en-us+Hugo"),
    ),
    "dev": ("en-us+m3", "en+f4", "en-us+Annie", "en-gb-scotland+Michael"),
    "test": ("en-us+m6", "en+linda", "en-gb-x-rp+john"),
}
# Train variants that the encoder never hears.
NEW_IN_TRAIN = {"m2", "Andy", "f1", "pablo", "steph2", "marcelo"}
HARD_TO_UNDERSTAND = {
    *("whisper", "whisperf", "croak", "Demonic", "Reed", "announcer", "kaukovalta", "boris"),
    *("UniRobot", "anikaRobot", "Tweaky", "fast"),
    *(f"klatt{n}" for n in ("", *range(2, 7))),
    *(f"robosoft{n}" for n in ("", *range(2, 9))),
}
OPUS_COMPRESSION = 0.95  # of libsndfile's 0 to 1: about 23 kbit/s


@dataclass(frozen=True)
class Utterance:
    """All that `Espeak.say` needs, and the peak that the clip is scaled to."""

    text: str
    voice: str
    rate: int
    pitch: int
    pitch_range: int
    speed: float
    peak: float


_espeak: Espeak | None = None


def speak(utterance: Utterance) -> np.ndarray:
    """Speak one utterance in this process: int16 samples (S,) at 16 kHz, empty if the voice stayed silent."""
    global _espeak
    _espeak = _espeak or Espeak()
    u = utterance
    waveform = _espeak.say(u.text, u.voice, u.rate, u.pitch, u.pitch_range, u.speed)
    loudest = np.abs(waveform).max(initial=0.0)
    return np.round(waveform * (u.peak / max(loudest, 1e-6)) * 32767).astype(np.int16)


def speak_all(utterances: list[Utterance], workers: int) -> Iterator[np.ndarray]:
    """Speak all utterances, in order, in `workers` processes, with a progress line every 2,000."""
    started = time.time()
    with ProcessPoolExecutor(workers) as pool:
        for done, waveform in enumerate(pool.map(speak, utterances, chunksize=64), start=1):
            if done % 2000 == 0:
                print(f"{done:,} of {len(utterances):,} clips, {time.time() - started:.0f} s", flush=True)
            yield waveform


def encoder_voices() -> dict[str, int]:
    """Return the voices that the encoder may hear, with weights: all accents by all free variants."""
    held_back = {voice.partition("+")[2] for voice in VOICES["dev"] + VOICES["test"]}
    heard = sorted(variants() - held_back - NEW_IN_TRAIN - HARD_TO_UNDERSTAND)
    return {f"{accent}+{variant}": weight for accent, weight in ACCENTS.items() for variant in heard}


def make_clips(args: argparse.Namespace) -> None:
    """Speak the encoder's fragments, once each in a random voice, into one `.npz`.

    Arrays: `samples` int16, all clips one after the other; `ends` int64 (B,), where each stops; `texts` (B,).
    """
    rng = random.Random(args.seed)
    voices = encoder_voices()
    texts = json.loads(args.sentences.read_text())["encoder"][: args.count]
    drawn = rng.choices(list(voices), list(voices.values()), k=len(texts))
    utterances = [
        Utterance(
            text=text,
            voice=voice,
            rate=rng.randint(115, 195),
            pitch=rng.randint(20, 85),
            pitch_range=rng.randint(25, 75),
            speed=rng.uniform(0.9, 1.12),
            peak=rng.uniform(0.25, 0.75),
        )
        for text, voice in zip(texts, drawn, strict=True)
    ]
    print(f"{len(utterances):,} clips in {len(voices)} voices", flush=True)
    clips = list(speak_all(utterances, args.workers))
    ends = np.cumsum([len(clip) for clip in clips])
    np.savez(args.output, samples=np.concatenate(clips), ends=ends, texts=np.array(texts))
    print(f"{args.output}: {ends[-1] / SAMPLE_RATE / 3600:.2f} h")


def make_corpus(args: argparse.Namespace) -> None:
    """Speak the train, dev and test fragments into `audio/`, with a `<split>.jsonl` each; pack train and dev."""
    sentences = json.loads(args.sentences.read_text())
    for split in ("test", "dev", "train"):  # the small ones first: encoder.py scores itself on dev
        voices = VOICES[split]
        assert {voice.partition("+")[2] for voice in voices} <= variants()
        rng = random.Random(f"{args.seed} {split}")
        utterances = [
            Utterance(
                text=text,
                voice=voices[index % len(voices)],
                rate=rng.randint(125, 175),
                pitch=rng.randint(35, 65),
                pitch_range=rng.randint(40, 60),
                speed=1.0,
                peak=rng.uniform(0.3, 0.7),
            )
            for index, text in enumerate(sentences[split])
        ]
        folder = args.output / "audio" / split
        folder.mkdir(parents=True, exist_ok=True)
        lines, seconds = [], 0.0
        pairs = zip(utterances, speak_all(utterances, args.workers), strict=True)
        for number, (utterance, samples) in enumerate(pairs, start=1):
            path = folder / f"{number:04d}.{'flac' if split == 'test' else 'opus'}"
            if split == "test":
                soundfile.write(path, samples, SAMPLE_RATE)
            else:
                soundfile.write(path, samples, SAMPLE_RATE, "OPUS", format="OGG", compression_level=OPUS_COMPRESSION)
            line = {
                "audio": path.relative_to(args.output).as_posix(),
                "text": utterance.text,
                "duration": round(len(samples) / SAMPLE_RATE, 3),
                "speaker": utterance.voice,
            }
            lines.append(json.dumps(line) + "\n")
            seconds += line["duration"]
        (args.output / f"{split}.jsonl").write_text("".join(lines))
        if split != "test":  # its recordings stay files: people play them
            pack(folder)
        print(f"{split}: {len(lines):,} clips, {seconds / 3600:.2f} h", flush=True)


def main() -> None:
    """Run `clips` or `corpus`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, function in (("clips", make_clips), ("corpus", make_corpus)):
        command = commands.add_parser(name, help=function.__doc__.splitlines()[0])
        command.add_argument("sentences", type=Path, help="what sentences.py wrote")
        command.add_argument("output", type=Path, help="an .npz file (clips) or a folder (corpus)")
        command.add_argument("--workers", type=int, default=2)
        command.add_argument("--seed", type=int, default=0)
        if name == "clips":
            command.add_argument("--count", type=int, default=None, help="fewer than all fragments")
        command.set_defaults(run=function)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
