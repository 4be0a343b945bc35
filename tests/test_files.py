"""Writing whole and locking, on disks that are full and on mounts that know neither locks nor syncing."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_audio import files
from tiny_audio.errors import UserError
from tiny_audio.files import locked, sweep_temporaries, write_whole, written_whole

HOLD = "from tiny_audio.files import locked; from pathlib import Path; held = locked(Path('l')); held.__enter__()"


def answer(monkeypatch: pytest.MonkeyPatch, module: str, name: str, number: int) -> None:
    """Have a system call answer as a mount that does not know it."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"{module}.{name}", refuse)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.EINVAL])
def test_a_mount_that_cannot_sync_is_written_to_all_the_same(tmp_path, monkeypatch, number):
    answer(monkeypatch, "os", "fsync", number)
    write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_disk_that_fails_to_sync_is_an_error_and_the_file_stays(tmp_path, monkeypatch):
    write_whole(tmp_path / "file", b"old")
    answer(monkeypatch, "os", "fsync", errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_interrupted_leaves_the_file_as_it_was(tmp_path):
    write_whole(tmp_path / "file", b"old")

    def interrupted() -> None:
        with written_whole(tmp_path / "file") as part:
            part.write_bytes(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_what_a_killed_process_left_is_swept(tmp_path):
    (tmp_path / ".file.123.tmp").touch()
    (tmp_path / "file").touch()
    sweep_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL])
def test_a_mount_without_locks_is_told_from_a_lock_that_is_held(tmp_path, monkeypatch, number, caplog):
    monkeypatch.setattr(files, "_told", set())
    answer(monkeypatch, "fcntl", "flock", number)
    for _ in range(2):
        with locked(tmp_path / ".lock", "held", wait=False) as descriptor:
            assert descriptor is None
    assert caplog.messages == [f"{tmp_path} does not support locks: make sure that only one process works there."]


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_a_lock_that_is_held_is_the_users_error(tmp_path, monkeypatch, number):
    answer(monkeypatch, "fcntl", "flock", number)
    with (
        pytest.raises(UserError, match=r"^somebody works here$"),
        locked(tmp_path / ".lock", "somebody works here", wait=False),
    ):
        pytest.fail("it is held")


def test_a_lock_goes_with_its_process_and_not_with_the_workers_of_it(tmp_path, monkeypatch):
    """A killed run's workers outlive it by seconds: the same command must not have to wait for them."""
    monkeypatch.chdir(tmp_path)
    fork = "import os, time; os.fork(); print(flush=True); time.sleep(60)"  # each prints once it is there
    with subprocess.Popen(
        [sys.executable, "-c", f"{HOLD}; {fork}"], stdout=subprocess.PIPE, start_new_session=True
    ) as run:
        assert run.stdout is not None
        for _ in range(2):
            run.stdout.readline()
        with pytest.raises(UserError), locked(Path("l"), "held", wait=False):
            pytest.fail("it is held")
        run.kill()
        run.wait()
        with locked(Path("l"), "held", wait=False) as descriptor:
            assert descriptor is not None
        os.killpg(run.pid, signal.SIGKILL)
