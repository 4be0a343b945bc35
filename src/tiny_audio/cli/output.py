"""Write the output of commands: no input is overwritten, and a file is replaced only when the new one is complete.

Transcripts are written to standard output, to one file, or to a folder with a file for each recording.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ..config import DataConfig
from ..errors import UserError
from ..files import write_whole, written_whole
from ..formats import SUBTITLES, SUFFIXES, to_row, to_text

if TYPE_CHECKING:
    from ..inference.transcription import Transcription

HEAD_BYTES = 4096  # to distinguish text from recordings, weights and pictures, which contain zero bytes


def check_output(path: Path, inputs: Iterable[str | Path] = (), text: bool = False, key: str = "output") -> None:
    """Check before the work whether a file can be written, without changing it.

    Args:
        path: the file.
        inputs: files that are read.
        text: refuse to overwrite a file that is not text, such as a recording or a checkpoint.
        key: the option that names it.

    Raises:
        UserError: it is an input, is not text, or cannot be written.
    """
    if is_device(path):
        return
    refuse_inputs(path, inputs, key)
    reason, head = None, b""
    try:
        if path.is_dir():
            reason = "Is a directory"
        elif not path.parent.is_dir():
            reason = "No such file or directory"
        elif not os.access(path.parent, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
            reason = "Permission denied"
        elif text and path.exists():
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
    except OSError as error:  # such as a name that is too long
        reason = error.strerror
    if reason is not None:
        raise UserError(f"{key}={path}: cannot be written ({reason}).")
    if b"\0" in head:
        raise UserError(f"{key}={path} exists and is not a text file; delete it, or name another file.")


def refuse_inputs(path: Path, inputs: Iterable[str | Path], key: str = "output") -> None:
    """Refuse to overwrite an input.

    Raises:
        UserError: the output is one of the inputs, under any name.
    """
    if path.resolve() in {Path(one).resolve() for one in inputs}:
        raise UserError(f"{key}={path} is an input of this command; name another file.")


def data_files(data: DataConfig) -> list[Path]:
    """Return the files that corpora are read from, except recordings; for a folder, its possible manifests."""
    from ..data.rows import MANIFEST_SUFFIXES

    found: list[Path] = []
    for entry in (*data.datasets, *data.eval_datasets):
        path = Path(entry.path or "").expanduser()
        if entry.path is not None and path.is_dir():
            found += [file for file in path.iterdir() if file.name.endswith((*MANIFEST_SUFFIXES, ".parquet"))]
        elif entry.path is not None:
            found.append(path)
    return found


def write_output(path: Path, content: bytes, key: str = "output") -> None:
    """Write a file of results in one step; if it is a link, write its target.

    Raises:
        UserError: it cannot be written, and is unchanged.
    """
    try:
        if is_device(path):
            path.write_bytes(content)
        else:
            write_whole(path.resolve(), content)
    except OSError as error:
        raise UserError(f"{key}={path}: cannot be written ({error.strerror}).") from None


def is_device(path: Path) -> bool:
    """Whether a path is a terminal, a pipe or the like, such as /dev/stdout: it cannot be replaced by a file."""
    return path.parts[:2] == ("/", "dev") or (path.exists() and not path.is_file() and not path.is_dir())


def is_folder(output: str | None) -> bool:
    """Whether an output names a folder: one that exists, or a name that ends in a slash."""
    return output is not None and (output.endswith(("/", os.sep)) or Path(output).is_dir())


@contextmanager
def open_output(
    output: str | None, form: str, named: Sequence[str], paths: Sequence[str], kept: Sequence[str], alone: bool
) -> Iterator[Output]:
    """Open the output for transcripts.

    Args:
        output: a file or a folder; None: standard output.
        form: one of `SUFFIXES`.
        named: recordings and folders as they were typed.
        paths: the recordings.
        kept: other inputs; an output must not be any of the inputs.
        alone: whether there is only one recording, so that its transcript needs no name beside it.

    Raises:
        UserError: it cannot be written, or is an input.
    """
    from ..decoding import split_channel

    if output is None:
        yield Output(form, alone, sys.stdout)
        return
    inputs = [*(split_channel(path)[0] for path in paths), *kept]
    if is_folder(output):
        yield _Folder(form, Path(output), named, paths, inputs)
        return
    check_output(Path(output), inputs, text=True)
    with _written_as_it_comes(Path(output)) as stream:
        yield Output(form, alone, stream)


@contextmanager
def _written_as_it_comes(path: Path) -> Iterator[TextIO]:
    """Open a text file that becomes `path` when all is done; if the command is interrupted, `path`.part stays."""
    if is_device(path):
        with path.open("w", encoding="utf-8", errors="backslashreplace") as stream:
            yield stream
        return
    part = path.with_name(f"{path.name}.part")
    with (
        written_whole(path.resolve()) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        try:
            yield stream
        except BaseException:
            if stream.tell():
                stream.close()
                temporary.replace(part)
                print(f"ta infer: what was done so far is in {part}.", file=sys.stderr)
            raise
    part.unlink(missing_ok=True)


class Output:
    """One stream: a line for each recording, or subtitles of one."""

    def __init__(self, form: str, alone: bool, stream: TextIO) -> None:
        self.form, self.alone, self.stream = form, alone, stream

    def todo(self, paths: Sequence[str]) -> list[str]:
        """Return the recordings to transcribe."""
        return list(paths)

    def add(self, item: Transcription) -> None:
        """Write a transcript; a failed recording has a line only in JSON."""
        if self.form == "json":
            text = json.dumps(to_row(item), ensure_ascii=False) + "\n"
        elif item.error is not None:
            return
        elif self.form in SUBTITLES:
            text = to_text(item, self.form)
        else:
            text = (item.text if self.alone else f"{item.path}\t{item.text}") + "\n"
        try:
            self.stream.write(text)
            self.stream.flush()
        except BrokenPipeError:  # `ta infer ... | head`
            raise
        except OSError as error:
            raise UserError(f"the transcript of {item.path} cannot be written ({error.strerror}).") from None


class _Folder(Output):
    """A file for each recording, in the same subfolders; a recording whose file exists is done."""

    def __init__(
        self, form: str, folder: Path, named: Sequence[str], paths: Sequence[str], inputs: Sequence[str]
    ) -> None:
        super().__init__(form, alone=True, stream=sys.stdout)
        folders = [Path(name) for name in named if Path(name).is_dir()]
        self.places: dict[str, Path] = {}
        taken: dict[Path, str] = {}
        for path in paths:
            place = folder / _place_of(Path(path), folders)
            place = place.with_name(place.name + SUFFIXES[form])  # a.wav and a.mp3 may be in the same folder
            if taken.setdefault(place, path) != path:
                raise UserError(
                    f"output={folder}: {path} and {taken[place]} would both go to {place}; name the folder above them."
                )
            refuse_inputs(place, inputs)
            self.places[path] = place
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"output={folder}: cannot be made ({error.strerror}).") from None

    def todo(self, paths: Sequence[str]) -> list[str]:
        return [path for path in paths if not self.places[path].is_file()]

    def add(self, item: Transcription) -> None:
        if item.error is not None:
            return
        place = self.places[item.path]
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"output={place.parent}: cannot be made ({error.strerror}).") from None
        write_output(place, to_text(item, self.form).encode("utf-8", "backslashreplace"))


def _place_of(path: Path, folders: Sequence[Path]) -> Path:
    """Return where to write a recording's transcript: its path in a named folder, or the path as it was typed.

    It does not depend on the other recordings.
    """
    for folder in folders:
        if path.is_relative_to(folder):
            return path.relative_to(folder)
    return Path(path.name) if path.is_absolute() or ".." in path.parts else path
