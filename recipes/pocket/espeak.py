"""espeak-ng through ctypes: text to a 16 kHz waveform.

Needs espeakng-loader, the library and its data (GPL-3.0-or-later, which does not cover its audio).
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import espeakng_loader
import numpy as np
import soxr

from tiny_audio.lengths import SAMPLE_RATE

_SYNCHRONOUS, _DONT_EXIT, _UTF8, _POSITION_CHARACTER = 2, 0x8000, 1, 1
_RATE, _PITCH, _RANGE = 1, 3, 4  # espeak_PARAMETER
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@functools.cache
def variants() -> set[str]:
    """Return the voice variants there are. espeak-ng accepts any other name in silence and ignores it."""
    return {file.name for file in (Path(espeakng_loader.get_data_path()) / "voices" / "!v").iterdir()}


class Espeak:
    """The synthesizer: one a process, since the library keeps global state."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self._native_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, _DONT_EXIT)
        if self._native_rate <= 0:
            raise RuntimeError("espeak-ng could not be initialized")
        self._chunks: list[np.ndarray] = []
        self._callback = _CALLBACK(self._collect)  # kept: the library holds only a pointer to it
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: ctypes._Pointer, count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def say(self, text: str, voice: str, rate: int, pitch: int, pitch_range: int, speed: float = 1.0) -> np.ndarray:
        """Speak a text.

        Args:
            text: what to say.
            voice: an accent, or an accent and a variant: `en-us`, `en-gb-scotland+m3`.
            rate: words a minute.
            pitch: 0 to 100.
            pitch_range: 0 (monotone) to 100.
            speed: plays the result faster by this factor, formants and pitch along with it.

        Returns:
            float32 samples (S,) at 16 kHz, silence at both ends cut to 60 ms; empty if nothing was heard.
        """
        accent, _, variant = voice.partition("+")
        if variant and variant not in variants():
            raise ValueError(f"espeak-ng has no variant {variant!r}")
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {accent!r}")
        for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._chunks = []
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, _POSITION_CHARACTER, 0, _UTF8, None, None)
        if not self._chunks:
            return np.zeros(0, np.float32)
        samples = np.concatenate(self._chunks).astype(np.float32) / 32768
        return trim(soxr.resample(samples, self._native_rate * speed, SAMPLE_RATE, quality="HQ"))


def trim(waveform: np.ndarray, threshold: float = 0.005, margin_seconds: float = 0.06) -> np.ndarray:
    """Cut what lies beyond `margin_seconds` before the first and after the last loud sample of (S,)."""
    loud = np.flatnonzero(np.abs(waveform) > threshold * max(np.abs(waveform).max(initial=0.0), 1e-6))
    margin = int(margin_seconds * SAMPLE_RATE)
    return waveform[max(loud[0] - margin, 0) : loud[-1] + 1 + margin] if len(loud) else waveform[:0]
