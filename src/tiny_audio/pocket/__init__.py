"""The folder of the bundled pocket pair: a small speech encoder, a small decoder, and synthetic speech."""

from pathlib import Path

POCKET_DIR = Path(__file__).parent
ENCODER_DIR = POCKET_DIR / "encoder"
DECODER_DIR = POCKET_DIR / "decoder"
SPEECH_DIR = POCKET_DIR / "speech"
