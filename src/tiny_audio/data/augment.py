"""Augmentation of training clips: speed, room, noise, gain, in this order, as a pure function of seed and draw.

Eight uniform numbers, made from the seed and the draw number, decide everything. So a draw sounds the same in every
process, at every reading and in every order of reading; the next draw of the same clip sounds different. No number
changes its meaning when another effect is turned on or off.

S samples of a clip, R of a room response.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np

from ..audio import change_speed, is_silent
from ..config import DataConfig
from ..lengths import SAMPLE_RATE
from .sounds import Sounds, open_sounds

logger = logging.getLogger(__name__)

SPEEDS = (90, 100, 110)  # per cent, all equally likely; see `change_speed`
ROOM_PROBABILITY = 0.3
NOISE_PROBABILITY = 0.5
GAIN_DB = 6.0  # either way
MAX_ROOM_SECONDS = 10.0  # a longer recording is not a room response
STREAM = 3  # the plan makes its own choices from the seed and 0, 1, 2


class Augmenter:
    """Changes a clip as its draw decides.

    Args:
        seed: of all choices.
        data: bounds on length, which hold after a change of speed too; the range of signal-to-noise ratios.
        noises, rooms: noises to add, and room responses; None: no such effect.
    """

    def __init__(self, seed: int, data: DataConfig, noises: Sounds | None = None, rooms: Sounds | None = None) -> None:
        self.seed = seed
        self.shortest, self.longest = data.min_audio_length * SAMPLE_RATE, data.max_audio_length * SAMPLE_RATE
        self.noise_snr_db = data.noise_snr_db
        self.noises, self.rooms = noises, rooms

    def __call__(self, waveform: np.ndarray, number: int) -> np.ndarray:
        """Augment one clip.

        Args:
            waveform: (S,) float32 at 16 kHz, finite and not silent; it is not changed.
            number: of the draw, see `Draw.number`.

        Returns:
            (S',) float32, finite, not silent, within -1 and 1; S' is S divided by the speed, and within
            `data.min_audio_length` and `data.max_audio_length` if S is.
        """
        speed, in_room, room, has_noise, noise, where, snr, gain = np.random.default_rng(
            [self.seed, STREAM, number]
        ).random(8)
        waveform = self.change_speed(waveform, SPEEDS[int(speed * len(SPEEDS))])
        if self.rooms is not None and in_room < ROOM_PROBABILITY:
            response = self.rooms.whole(room)
            waveform = waveform if response is None else reverberate(waveform, response)
        if self.noises is not None and has_noise < NOISE_PROBABILITY:
            piece = self.noises.piece(noise, where, len(waveform))
            low, high = self.noise_snr_db
            waveform = waveform if piece is None else add_noise(waveform, piece, low + snr * (high - low))
        waveform = waveform * np.float32(10 ** (GAIN_DB * (2 * gain - 1) / 20))
        return waveform / max(1.0, np.abs(waveform).max())

    def change_speed(self, waveform: np.ndarray, percent: int) -> np.ndarray:
        """Change speed and pitch of (S,) samples; return them unchanged where their length would leave its bounds."""
        if percent == 100 or not self.shortest <= len(waveform) * 100 / percent <= self.longest:
            return waveform
        return change_speed(waveform, percent)[: int(self.longest)]


def reverberate(waveform: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolve a clip with a room response.

    The loudest sample of the response counts as the direct path, so the clip keeps its place. Reverberation after the
    end of the clip is cut off.

    Args:
        waveform: (S,) float32.
        response: (R,) float32.

    Returns:
        (S,) float32 of the same level (root mean square).
    """
    if is_silent(response):
        return waveform
    direct = int(np.abs(response).argmax())
    response = response / np.abs(response[direct])
    total = len(waveform) + len(response) - 1
    step = 1 << max(total.bit_length() - 4, 0)
    size = -(-total // step) * step  # a multiple of a large power of two: primes are slow to transform
    spectrum = np.fft.rfft(waveform, size) * np.fft.rfft(response, size)
    wet = np.fft.irfft(spectrum, size)[direct : direct + len(waveform)].astype(np.float32)
    return waveform if is_silent(wet) else wet * (level(waveform) / level(wet))


def add_noise(waveform: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add noise (S,) to a clip (S,) at a ratio of their mean powers over the whole clip; silence adds nothing."""
    if is_silent(noise):
        return waveform
    return waveform + noise * (level(waveform) / level(noise) * np.float32(10 ** (-snr_db / 20)))


def level(waveform: np.ndarray) -> np.float32:
    """Root mean square."""
    return np.float32(math.sqrt(np.square(waveform, dtype=np.float64).mean()))


def open_augmenter(data: DataConfig, seed: int) -> Augmenter | None:
    """Check noises and rooms, and return the augmentation that `data.augmentation` names; None if it is `none`.

    Raises:
        UserError: `data.noise_path` or `data.room_path` holds nothing that can be used.
    """
    if data.augmentation == "none":
        return None
    noises = None if data.noise_path is None else open_sounds("data.noise_path", Path(data.noise_path))
    rooms = None if data.room_path is None else open_sounds("data.room_path", Path(data.room_path), MAX_ROOM_SECONDS)
    counts = [f"{len(sounds):,} {name}" for sounds, name in ((noises, "noises"), (rooms, "rooms")) if sounds]
    logger.info("Augmentation: %s", ", ".join(["speed", "gain", *counts]))
    return Augmenter(seed, data, noises, rooms)
