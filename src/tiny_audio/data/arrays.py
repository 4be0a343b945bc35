"""Recordings as samples in Arrow tables, each with its rate, as `datasets.map` and pandas leave them."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow
import soundfile

from ..audio import AudioError, header_seconds
from ..errors import UserError
from .rows import Rows
from .strings import shown
from .tables import Recordings
from .times import read_times

RATE_COLUMNS = ("sampling_rate", "sample_rate", "sr", "rate")
TRIED_ROWS = 3

Place = tuple[str, ...]  # a column, or a column and a field in it


class ArrayRecordings:
    """Recordings as samples in an Arrow table, each with its rate, as `datasets.map` and pandas leave them."""

    def __init__(self, dataset: Any, samples: tuple[str, ...], rate: tuple[str, ...], version: str) -> None:
        self.dataset = dataset.with_format("arrow")
        self.samples = samples  # the column, and the field in it if there is one
        self.rate = rate
        self.version = version  # of the table

    def __getitem__(self, row: int) -> bytes:
        table = self.dataset[int(row)]
        samples, rate = _cell(table, self.samples), _cell(table, self.rate).as_py()
        if not samples.is_valid:
            raise AudioError("missing", "the row holds no recording")
        if not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
            raise AudioError("decode_error", f"its sampling rate is {shown(rate)}")
        return to_wav(samples, round(rate))

    def versions(self, rows: Sequence[int]) -> list[str]:
        """See `Recordings`."""
        return [f"{self.version} {row}" for row in rows]


def _cell(table: Any, place: tuple[str, ...]) -> Any:
    """The only row of a column, or of a field in it, as an Arrow scalar."""
    column = table.column(place[0]).combine_chunks()
    for name in place[1:]:
        column = column.flatten()[column.type.get_field_index(name)]  # with the nulls of the column that holds it
    return column[0]


def to_wav(samples: Any, rate: int) -> bytes:
    """Write samples as a wav file in memory, as they are.

    Args:
        samples: an Arrow list of S numbers, or of C lists (or tuples of C channels), floats in [-1, 1] or 16-bit
            integers, stored in any width.
        rate: Hz.

    Raises:
        AudioError: decode_error, if they are not samples.
    """
    try:
        values = np.asarray(samples.as_py() if _is_nested(samples.type) else samples.values)
        if values.dtype == object or values.ndim > 2:
            raise ValueError("they are not numbers")
        if values.ndim == 2 and values.shape[0] < values.shape[1]:  # channels first, as `datasets` has them
            values = values.T
        if np.issubdtype(values.dtype, np.integer):
            if len(values) and np.abs(values.astype(np.int64)).max() > 1 << 15:
                raise ValueError("they are integers of more than 16 bits")
            values = values.clip(-(1 << 15), (1 << 15) - 1).astype(np.int16)
        file, subtype = io.BytesIO(), "PCM_16" if values.dtype == np.int16 else "FLOAT"
        soundfile.write(file, values, rate, subtype=subtype, format="WAV")
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise AudioError("decode_error", f"its samples cannot be read: {error}") from None
    return file.getvalue()


def _is_nested(kind: Any) -> bool:
    return bool(pyarrow.types.is_nested(kind.value_type))


def form_of(column: Any) -> str:
    """Return how an Arrow column keeps recordings: `paths`, `encoded` bytes, `samples`, or else its type."""
    kind, types = column.type, pyarrow.types
    if types.is_string(kind) or types.is_large_string(kind):
        return "paths"
    if types.is_binary(kind) or types.is_large_binary(kind):
        return "encoded"
    if _is_list(kind):
        return "samples"
    fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)} if types.is_struct(kind) else {}
    if "bytes" in fields and any(chunk.field("bytes").null_count < len(chunk) for chunk in column.chunks):
        return "encoded"
    if "array" in fields and _is_list(fields["array"]):
        return "samples"
    return "paths" if "path" in fields else str(kind)


def _is_list(kind: Any) -> bool:
    types = pyarrow.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def sample_columns(table: Any, audio: str, origin: str) -> tuple[Place, Place]:
    """Return where an Arrow table keeps samples, and where it keeps their rate.

    Raises:
        UserError: the table does not hold their rate.
    """
    kind = table.column(audio).type
    if not pyarrow.types.is_struct(kind):
        rate = next((name for name in RATE_COLUMNS if name in table.column_names), None)
        if rate is not None:
            return (audio,), (rate,)
    else:
        fields = [kind.field(i).name for i in range(kind.num_fields)]
        rate = next((name for name in RATE_COLUMNS if name in fields), None)
        if rate is not None:
            return (audio, "array"), (audio, rate)
    raise UserError(
        f"data.datasets: {origin} holds samples in its column {audio}, but not their rate in Hz: "
        f"add a column {RATE_COLUMNS[0]}."
    )


def check_parts(table: Any, audio: str, recordings: Recordings, origin: str) -> None:
    """Refuse rows that are parts of recordings if the table holds the whole recordings.

    In a corpus of clips, such as GigaSpeech, the same columns say where a clip was cut from.

    Raises:
        UserError: the first recordings are far longer than their rows say.
    """
    columns = [name for name in table.column_names if name != audio]
    some = [table.column(name).slice(0, TRIED_ROWS).to_pylist() for name in columns]
    values = [dict(zip(columns, row, strict=True)) for row in zip(*some, strict=True)]
    try:
        starts, seconds = read_times(columns, Rows(values, list(range(len(values)))), origin)
    except UserError:  # no times of rows
        return
    for row, listed in enumerate(seconds.tolist() if starts is not None else ()):
        try:
            held = header_seconds(recordings[row])
        except AudioError:
            continue
        if held > 2 * listed + 1:
            raise UserError(
                f"data.datasets: the rows of {origin} are parts of longer recordings (row {row + 1}: {listed:g} s of "
                f"{held:.1f} s): cut them to clips, or write the recordings to files and name them in a manifest."
            )
