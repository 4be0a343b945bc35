"""Find speech in a recording: Silero's voice-activity model (MIT), run by ONNX Runtime.

Only the model's file is used from the package `silero-vad`: importing the package would set torch to one thread.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..spooled import Samples

WINDOW = 512  # samples that get one probability: 32 ms, ...
CONTEXT = 64  # ... read with these of the window before
BLOCK = 512  # windows that are computed at once: 16 s, a few megabytes
STATE = (1, 1, 128)
MODEL = "silero_vad_16k_sequence.onnx"


def open_activity(wanted: bool | None) -> VoiceActivity | None:
    """Open the model if it is wanted; with None, if the extra `vad` is installed.

    Raises:
        UserError: it is wanted, and the extra is not installed.
    """
    file = None if wanted is False else _model_file()
    if wanted and file is None:
        raise UserError("vad=true needs the voice-activity model: pip install 'tiny-audio[vad]'; or leave vad out.")
    return None if file is None else VoiceActivity(file)


class VoiceActivity:
    """The probability of speech, every 32 ms.

    Args:
        file: the model, for sequences at 16 kHz.
    """

    def __init__(self, file: Path) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # version 1.32 sends usage data to its makers
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # the model is too small for more
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def __call__(self, waveform: Samples) -> np.ndarray:
        """Return the probabilities (ceil(S / 512),) of a recording (S,), mono, 16 kHz; the end is filled with zeros."""
        found = [np.zeros(0, np.float32)]
        hidden, cell = np.zeros(STATE, np.float32), np.zeros(STATE, np.float32)
        before = np.zeros(CONTEXT, np.float32)
        for start in range(0, len(waveform), BLOCK * WINDOW):
            samples = waveform[start : start + BLOCK * WINDOW].astype(np.float32)
            samples = np.pad(samples, (0, -len(samples) % WINDOW))
            windows = samples.reshape(-1, WINDOW)
            contexts = np.concatenate([before[None], windows[:-1, -CONTEXT:]])
            before = windows[-1, -CONTEXT:]
            inputs = {"input": np.concatenate([contexts, windows], axis=1), "h": hidden, "c": cell}
            speech, hidden, cell = self._session.run(["speech_probs", "hn", "cn"], inputs)
            found.append(speech.reshape(-1))
        return np.concatenate(found)


def _model_file() -> Path | None:
    """Return the path of the model's file; None if it or ONNX Runtime is not installed."""
    package = find_spec("silero_vad")
    if package is None or find_spec("onnxruntime") is None:
        return None
    folders = package.submodule_search_locations or []
    return next((file for folder in folders if (file := Path(folder, "data", MODEL)).is_file()), None)
