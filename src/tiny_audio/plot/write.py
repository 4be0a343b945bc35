"""Writes curves into a file, whose suffix gives the format."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from ..errors import UserError
from ..files import write_whole
from .figure import draw, style
from .page import build_page
from .runs import Run

logger = logging.getLogger(__name__)


def write(runs: Sequence[Run], output: Path) -> None:
    """Draw the runs into a .png, .svg or .html file.

    Raises:
        UserError: the file cannot be written.
    """
    content = render(draw(runs), "png" if output.suffix == ".png" else "svg")
    if output.suffix == ".html":
        content = build_page(runs, content.decode()).encode()
    try:
        write_whole(output.resolve(), content)
    except OSError as error:
        raise UserError(f"output: cannot write {output}: {error.strerror}.") from None


def render(figure: Figure, form: str) -> bytes:
    """Return a figure as `png` or `svg`."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(style()), warnings.catch_warnings():
        if form == "png":
            warnings.filterwarnings("error", "Glyph .* missing")
            try:
                figure.savefig(buffer, format="png", dpi=150)
            except UserWarning:
                logger.warning("No installed font has all letters of the names; an .html output shows them.")
                warnings.filterwarnings("ignore", "Glyph .* missing")
                figure.savefig(buffer, format="png", dpi=150)
        else:  # the viewer's own fonts are used
            warnings.filterwarnings("ignore", "Glyph .* missing")
            figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
