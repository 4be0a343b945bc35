"""Transcribing with a checkpoint.

from tiny_audio.inference import Recogniser
recogniser = Recogniser("outputs/quickstart/checkpoints/final.pt")
print(recogniser.transcribe("test.wav").text)
"""

from .transcribe import Decoding, Recogniser, TextSegment, Transcription, transcribe_files

__all__ = ["Decoding", "Recogniser", "TextSegment", "Transcription", "transcribe_files"]
