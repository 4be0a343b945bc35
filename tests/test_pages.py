"""Templates: each that the code names is shipped, values are escaped, and no HTML is left in Python's strings."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from jinja2 import UndefinedError

import tiny_audio
from tiny_audio.pages import render

ROOT = Path(__file__).parents[1]
PACKAGE = Path(tiny_audio.__file__).parent
FINDING = {"corpus": "<b>", "what": "1 < 2", "todo": "&", "severe": True, "clips": [("<i>.wav", "")]}


def named_templates() -> set[str]:
    """Templates that the code fills in, and those that they are made of."""
    code = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    found = set(re.findall(r'render\w*\(\s*"([\w./]+)"', code))
    inner = "".join((PACKAGE / name).read_text() for name in found)
    return found | set(re.findall(r'{% (?:extends|include|from) "([\w./]+)"', inner))


def test_every_template_that_is_named_is_in_the_package_and_in_the_wheel():
    names = named_templates()
    assert {"pages/base.html", "plot/page.html", "judge/page.js", "publish/card.md.jinja"} <= names
    assert [name for name in names if not (PACKAGE / name).is_file()] == []
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["src/tiny_audio"]
    assert "exclude" not in wheel, "the wheel holds all files of the package that git does not ignore"
    paths = [str(PACKAGE / name) for name in names]
    ignored = subprocess.run(["git", "check-ignore", *paths], cwd=ROOT, capture_output=True, text=True)
    assert ignored.stdout == ""


def test_values_are_escaped_in_html():
    values = {"title": "<script>", "svg": "<svg></svg>", "heading": "h", "tables": [], "remarks": ["a & b"]}
    page = render("inspection/report.html", findings=[FINDING], sentence=str, **values)
    assert "<script>" not in page
    for shown in ("&lt;script&gt;", "<b>&lt;b&gt;:</b> 1 &lt; 2", "<code>&lt;i&gt;.wav</code>", "a &amp; b"):
        assert shown in page
    assert "<svg></svg>" in page, "pictures are drawn by the package, and stand as they are"


def test_a_value_that_a_template_lacks_is_an_error():
    with pytest.raises(UndefinedError, match="svg"):
        render("plot/page.html", title="t", names=[], colors=[], columns=[], figures=[], settings={})


def test_no_html_is_written_in_python():
    tag = re.compile(r"</?(div|table|span|h[1-6]|p|td|th|tr|style|script)\b[^<]*>")
    wrong = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and tag.search(node.value)
    ]
    assert wrong == []
