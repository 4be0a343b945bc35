"""Clips at several speeds: each a clip of its own, with its own length, place in the mixture, and encoder outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clips import write, write_manifest
from tiny_audio.audio import change_speed, load_audio
from tiny_audio.config import DataConfig, DatasetConfig
from tiny_audio.data.features import clip_keys
from tiny_audio.data.loader import ClipDataset
from tiny_audio.data.plan import Draw
from tiny_audio.data.sources import Source, at_speeds, open_sources
from tiny_audio.errors import ConfigError

SPEEDS = DataConfig(speeds=[0.9, 1.0, 1.1], max_audio_length=2.0, min_audio_length=0.5)
SECONDS = (0.52, 1.0, 1.5, 1.9)  # the first is too short when it is played faster, the last too long when slower


@pytest.fixture
def source(tmp_path: Path) -> Source:
    rows = [{"audio": write(tmp_path / f"{s}.wav", s).name, "text": f"clip {s}"} for s in SECONDS]
    write_manifest(tmp_path / "a.jsonl", rows)
    [source] = open_sources(
        [DatasetConfig(path=str(tmp_path / "a.jsonl"), weight=3.0)], SPEEDS, tmp_path / "cache", limit=None, seed=0
    )
    return source


def test_a_clip_is_read_at_its_speed_and_is_as_long_as_it_is_said_to_be(source: Source) -> None:
    for one in at_speeds([source], SPEEDS):
        for row in range(len(one)):
            expected = change_speed(load_audio(source.recording(source.names.index(one.names[row]))), one.percent)
            np.testing.assert_array_equal(one.read(row, 2.0), expected)
            assert len(expected) / 16_000 == pytest.approx(one.durations[row], abs=1e-3)


def test_a_clip_that_would_leave_the_limits_on_length_is_left_out_at_that_speed(source: Source) -> None:
    played = {one.percent: [float(name[:-4]) for name in one.names] for one in at_speeds([source], SPEEDS)}
    assert played == {100: list(SECONDS), 90: [0.52, 1.0, 1.5], 110: [1.0, 1.5, 1.9]}


def test_the_speeds_share_what_their_corpus_has_of_the_mixture(source: Source) -> None:
    assert [one.weight for one in at_speeds([source], SPEEDS)] == [1.0, 1.0, 1.0]
    assert [one.weight for one in at_speeds([source], replace(SPEEDS, speeds=[1.0]))] == [1.0]


def test_the_encoder_s_outputs_are_kept_by_speed(source: Source) -> None:
    keys = [key for one in at_speeds([source], SPEEDS) for key in clip_keys(one.recording_versions(range(len(one))))]
    assert len({*keys}) == len(keys) == 10
    assert keys[:4] == clip_keys(source.recording_versions(range(4))), "those of the recordings as they are stay valid"


def test_batches_hold_clips_of_several_speeds(source: Source) -> None:
    sources = at_speeds([source], SPEEDS)
    batch = ClipDataset(sources, lambda text: [1], SPEEDS).__getitems__([Draw(n, n, 1) for n in range(3)])
    assert not batch.skipped
    assert batch.seconds == pytest.approx([float(one.durations[1]) for one in sources], abs=1e-3)
    assert batch.transcripts == ["clip 1.0", "clip 1.0", "clip 1.5"]


@pytest.mark.parametrize("speeds", [[], [0.9, 1.1], [1.0, 1.0], [1.0, 0.4]])
def test_speeds_that_make_no_sense_are_told(speeds: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"data.speeds must be different speeds between 0.5 and 2, 1.0 among them"):
        DataConfig(speeds=speeds)


@pytest.mark.parametrize("other", [{"streaming": True}, {"augmentation": "light"}])
def test_speeds_do_not_go_with_clips_that_change_as_they_are_drawn(other: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"cannot be combined with .*set data.speeds=\[1.0\]"):
        DataConfig(speeds=[1.0, 1.1], **other)
