"""Lengths from clip to decoder, each derived from the one before: samples, mel frames, encoder frames, audio tokens."""

from typing import NamedTuple

SAMPLE_RATE = 16_000  # Hz, of every waveform inside the toolkit
MAX_CLIP_SECONDS = 30  # the longest that the encoders were trained on
MAX_CLIP_SAMPLES = MAX_CLIP_SECONDS * SAMPLE_RATE
HOP_LENGTH = 160  # samples per mel frame: 10 ms
N_FFT = 400  # samples in an analysis window: 25 ms
CONV_STRIDE = 2  # mel frames per encoder frame (the encoder's second convolution): 20 ms
FRAME_SECONDS = CONV_STRIDE * HOP_LENGTH / SAMPLE_RATE  # of an encoder frame: 20 ms
ALIGNMENT_FRAMES = 4  # encoder frames in a clip are a multiple of this: 80 ms
FRAME_SAMPLES = CONV_STRIDE * HOP_LENGTH  # 320
ALIGNMENT_SAMPLES = ALIGNMENT_FRAMES * FRAME_SAMPLES  # 1280 samples

MAX_CLIP_FRAMES = MAX_CLIP_SAMPLES // FRAME_SAMPLES  # 1500, of a window of 30 s

# Silence around a clip that is encoded `padded`, in encoder frames, whole alignment units.
FRAMES_BEFORE = 12  # 0.24 s, all kept
FRAMES_AFTER = 48  # 0.96 s
FRAMES_AFTER_KEPT = 12  # of them

assert ALIGNMENT_SAMPLES == 1280


class Window(NamedTuple):
    """What the encoder reads of a clip, in encoder frames.

    Attributes:
        before: frames of silence before the clip.
        kept: frames that are kept, from the first one on: silence before it, the clip, silence after it.
        whole: all frames that are encoded.
    """

    before: int
    kept: int
    whole: int


def align_samples(num_samples: int) -> int:
    """Return the length of a clip after zero-padding to whole alignment units (1280 samples, 80 ms).

    With an odd number of mel frames, the bias of the encoder's first convolution would leak over a clip's end,
    and the last mel frame depends on what follows it. Whole units make a clip alone and a clip in a batch equal.
    """
    return -(-num_samples // ALIGNMENT_SAMPLES) * ALIGNMENT_SAMPLES


def num_mel_frames(num_samples: int) -> int:
    """Mel frames of a waveform: one per hop, without the trailing partial frame, as in Whisper's extractor."""
    return num_samples // HOP_LENGTH


def num_encoder_frames(mel_frames: int) -> int:
    """Encoder frames of `mel_frames`: a kernel of 3, padding 1, stride 2."""
    return (mel_frames - 1) // CONV_STRIDE + 1


def num_clip_frames(num_samples: int) -> int:
    """Return how many encoder frames hold a part of a clip, at least a stack of four.

    GLM-ASR's processor in `transformers` counts them in this way, so that the number of audio tokens is the same.
    """
    return max(-(-num_samples // FRAME_SAMPLES), ALIGNMENT_FRAMES)


def window_of(num_samples: int, encoder_window: str) -> Window:
    """Return what is encoded of a clip.

    Args:
        num_samples: of the clip.
        encoder_window: `clip`: the clip alone; `padded`: silence before and after it, as far as 30 s have room;
            `30s`: silence after it up to 30 s.
    """
    own = num_clip_frames(num_samples)
    if encoder_window == "30s":
        return Window(0, own, MAX_CLIP_FRAMES)
    aligned = align_samples(num_samples) // FRAME_SAMPLES
    if encoder_window == "clip":
        return Window(0, own, aligned)
    before = FRAMES_BEFORE if aligned + FRAMES_BEFORE <= MAX_CLIP_FRAMES else 0
    whole = min(before + aligned + FRAMES_AFTER, MAX_CLIP_FRAMES)
    return Window(before, min(before + own + FRAMES_AFTER_KEPT, whole), whole)


def num_stacked_tokens(encoder_frames: int, frame_stack: int) -> int:
    """Audio tokens of a projector that stacks `frame_stack` encoder frames and drops an incomplete stack."""
    return encoder_frames // frame_stack
