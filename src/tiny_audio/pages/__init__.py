"""Pages and cards: Jinja templates in separate files, beside the code that fills them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parents[1]),
        autoescape=lambda name: name is None or name.endswith((".html", ".css", ".js")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(template: str, **values: Any) -> str:
    """Return a template of the package, filled in; in HTML every value is escaped.

    Args:
        template: such as `plot/page.html`, from the package's folder.
        values: what the template names; one that it names and does not get is an error.
    """
    return _environment().get_template(template).render(values)
