"""Transcribing with a checkpoint.

from tiny_audio.inference import Recognizer
recognizer = Recognizer("outputs/quickstart/checkpoints/final.pt")
print(recognizer.transcribe("test.wav").text)
"""

from .files import transcribe_files
from .transcribe import Decoding, Recognizer
from .transcription import TextSegment, Transcription

__all__ = ["Decoding", "Recognizer", "TextSegment", "Transcription", "transcribe_files"]
