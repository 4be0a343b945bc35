"""Tiny Audio: train your own speech recognizer in an evening."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .inference import Recognizer

__version__ = "0.1.0"


def load_model(name: str | Path, device: str = "auto", **options: Any) -> Recognizer:
    """Open a trained model: a checkpoint, a run's folder, an exported folder, or `user/repository` on the Hub.

    ``tiny_audio.load_model("outputs/quickstart").transcribe("test.wav").text``

    Args:
        name: what to open.
        device: auto, cuda, cuda:N, mps or cpu.
        options: further arguments of `tiny_audio.inference.Recognizer`: paths of its models, how it transcribes.

    Raises:
        UserError: there is no such model, or it cannot be read.
    """
    from .inference import Recognizer  # takes seconds, and every command imports this module

    return Recognizer(name, device, **options)
