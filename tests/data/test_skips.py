from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clips import read_lines
from tiny_audio.data.files import Files
from tiny_audio.data.index import Skip
from tiny_audio.data.skips import SkipLog
from tiny_audio.data.sources import Source
from tiny_audio.data.tables import FileRecordings
from tiny_audio.errors import UserError


def source(name: str, size: int, skipped: list[Skip] | None = None) -> Source:
    names = [f"{name}{i}" for i in range(size)]
    recordings = FileRecordings(Files(Path()), names)
    rows = np.arange(size)
    return Source(name, 1.0, np.ones(size), ["x"] * size, names, skipped or [], recordings, rows)


def skip(name: str, reason: str = "silent", of: str = "a") -> Skip:
    return Skip(of, name, reason, "detail")


def test_each_clip_is_written_once_also_over_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "run" / "skipped.jsonl"
    sources = [source("a", 100, [skip("early", "empty_text")]), source("b", 100)]
    log = SkipLog(path, sources, 0.2)
    assert read_lines(path) == [{"source": "a", "name": "early", "reason": "empty_text", "detail": "detail"}]
    log.add([skip("a1"), skip("a2", "missing")], [0, 1])
    log.add([skip("a1")], [0])
    assert [line["name"] for line in read_lines(path)] == ["early", "a1", "a2"]
    with path.open("a") as file:
        file.write('{"source": "a", "na')  # the run was killed while it wrote
    resumed = SkipLog(path, sources, 0.2)
    assert resumed.counts == log.counts
    resumed.add([skip("a2", "missing"), skip("b1", of="b")], [])
    assert [line["name"] for line in read_lines(path)] == ["early", "a1", "a2", "b1"]
    assert resumed.summary() == "4 clips skipped: a 1 empty_text, 1 missing, 1 silent; b 1 silent"


def test_nothing_skipped_leaves_no_file(tmp_path: Path) -> None:
    log = SkipLog(tmp_path / "skipped.jsonl", [source("a", 3)], 0.2)
    log.add([], [0, 0])
    log.check()
    assert log.summary() == ""
    assert not log.path.exists()


def test_only_one_process_writes(tmp_path: Path) -> None:
    log = SkipLog(tmp_path / "skipped.jsonl", [source("a", 3)], 0.2, write=False)
    log.add([skip("a1")], [])
    assert log.counts.total() == 1
    assert not log.path.exists()


def test_stops_above_the_share_but_not_too_early(tmp_path: Path) -> None:
    log = SkipLog(tmp_path / "skipped.jsonl", [source("a", 1000)], 0.2)
    log.add([skip(f"a{i}") for i in range(20)], [0] * 25)
    log.check()  # 20 of 45
    log.add([], [0] * 55)
    log.check()  # 20 of 100 are allowed
    log.add([skip("a999", "missing")], [])
    with pytest.raises(UserError, match=r"21 of 101 drawn clips .*20 silent, 1 missing.* more than data.max_skip"):
        log.check()


def test_what_indexing_left_out_is_no_draw(tmp_path: Path) -> None:
    log = SkipLog(tmp_path / "s.jsonl", [source("a", 100, [skip(f"x{i}") for i in range(90)])], 0.2)
    log.add([], [0] * 60)
    log.check()


def test_small_data_is_judged_once_it_was_all_seen(tmp_path: Path) -> None:
    log = SkipLog(tmp_path / "skipped.jsonl", [source("a", 5)], 0.2)
    log.add([skip("a1"), skip("a2")], [0, 0])
    log.check()
    log.add([], [0])
    with pytest.raises(UserError, match="2 of 5"):
        log.check()


def test_a_source_without_a_usable_clip_stops_the_run(tmp_path: Path) -> None:
    log = SkipLog(tmp_path / "skipped.jsonl", [source("a", 10_000), source("b", 10_000)], 0.2)
    log.add([skip(f"b{i}", "missing", "b") for i in range(49)], [0] * 400)
    log.check()
    log.add([skip("b49", "missing", "b")], [0] * 10)
    with pytest.raises(UserError, match=r"none of the 50 clips drawn from b could be used \(50 missing\)"):
        log.check()
    log = SkipLog(tmp_path / "other.jsonl", [source("a", 100), source("b", 3)], 0.5)
    log.add([skip(f"b{i}", of="b") for i in range(3)], [0] * 4)
    with pytest.raises(UserError, match="none of the 3 clips drawn from b"):
        log.check()


def test_reasons_are_a_closed_list() -> None:
    with pytest.raises(AssertionError):
        Skip("a", "b", "odd", "")
