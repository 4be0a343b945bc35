"""The voice-activity model on the bundled speech."""

import subprocess
import sys

import numpy as np
import pytest

from tiny_audio.audio import load_audio
from tiny_audio.cli import main
from tiny_audio.errors import UserError
from tiny_audio.inference import activity
from tiny_audio.inference.activity import BLOCK, WINDOW, open_activity
from tiny_audio.inference.spans import find_spans
from tiny_audio.pocket import SPEECH_DIR

NUM_CLIPS, PAUSE_SECONDS = 12, 0.8


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("silero_vad")
    return open_activity(True)


@pytest.fixture(scope="module")
def joined() -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Clips with pauses between them that hum, and where the clips are."""
    rng = np.random.default_rng(0)
    parts, places, length = [], [], 0
    for number in range(1, NUM_CLIPS + 1):
        clip = load_audio(SPEECH_DIR / f"audio/test/{number:04d}.flac")
        pause = rng.standard_normal(int(PAUSE_SECONDS * 16_000)) * 0.005  # louder than silence
        places.append((length, length + len(clip)))
        parts += [clip, pause]
        length += len(clip) + len(pause)
    return np.concatenate(parts).astype(np.float32), places


def test_it_hears_who_speaks_and_not_what_hums(model, joined):
    waveform, places = joined
    speech = model(waveform)
    assert speech.shape == (-(-len(waveform) // WINDOW),)
    inside = np.zeros(len(speech), bool)
    for start, stop in places:
        inside[start // WINDOW : stop // WINDOW] = True
    assert speech[inside].mean() - speech[~inside].mean() > 0.5
    assert all(speech[start // WINDOW - 4 : start // WINDOW].min() < 0.1 for start, _ in places[1:]), "each pause"


def test_blocks_are_one_recording(model, joined):
    """What is computed at once makes no difference: the state and the last samples go on to the next block."""
    waveform = np.tile(joined[0], 3)[: BLOCK * WINDOW + 5000]
    whole = model(waveform)
    first = model(waveform[: BLOCK * WINDOW])
    assert len(first) < len(whole)
    assert np.array_equal(whole[:BLOCK], first)
    anew = model(waveform[BLOCK * WINDOW :])
    assert not np.allclose(whole[BLOCK:], anew, atol=1e-3), "the second block knows the first"
    assert len(model(np.zeros(0, np.float32))) == 0


def test_clips_that_are_joined_are_found_again(model, joined):
    """Where pauses hum, too: the pieces hold what is said and no more."""
    waveform, places = joined
    longest = max(stop - start for start, stop in places) / 16_000 + 0.3

    def whole(spans) -> int:
        return sum(any(a <= start + 1600 and b >= stop - 1600 for a, b in spans) for start, stop in places)

    spans = find_spans(waveform, 2.0, longest, activity=model)
    assert whole(spans) >= NUM_CLIPS - 1
    assert max(stop - start for start, stop in spans) <= longest * 16_000
    assert sum(stop - start for start, stop in spans) < len(waveform) - NUM_CLIPS * 0.3 * 16_000


def test_it_is_used_where_it_is_installed_and_missed_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(activity, "find_spec", lambda name: None)
    assert open_activity(None) is None
    with pytest.raises(UserError, match=r"vad=true needs .* pip install 'tiny-audio\[vad\]'"):
        open_activity(True)
    monkeypatch.undo()
    assert open_activity(False) is None


def test_torch_keeps_its_threads_and_nothing_is_sent(model, tmp_path):
    """Importing silero-vad would leave one thread, and ONNX Runtime keeps a record of its use to send."""
    code = (
        "import torch; torch.set_num_threads(3); from tiny_audio.inference.activity import open_activity; "
        "import numpy as np; open_activity(True)(np.zeros(16_000, np.float32)); print(torch.get_num_threads())"
    )
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=home, capture_output=True, text=True)
    assert done.stdout.strip() == "3", done.stderr
    assert not list(tmp_path.rglob("onnxruntime*"))


def test_the_command_names_what_is_missing(checkpoint, corpus, monkeypatch, capsys):
    monkeypatch.setattr(activity, "find_spec", lambda name: None)
    assert main(["infer", f"checkpoint={checkpoint}", f"audio={corpus}/dev0.flac", "vad=true"]) == 2
    assert "vad=true needs the voice-activity model" in capsys.readouterr().err.splitlines()[-1]
