"""The docs as a site, what of them is generated, and what they say that the program says."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MIN_TEXT = 12  # characters of a text that is looked for; shorter ones stand in any message


def load_script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_settings_is_up_to_date_and_leaves_none_unexplained():
    page = (DOCS / "configuration.md").read_text()
    assert page == load_script(ROOT / "recipes/configuration_page.py").page(), "python recipes/configuration_page.py"
    rows = re.findall(r"^\| `([\w.\[\]]+)` \|.*\| (.*) \|$", page, re.MULTILINE)
    assert len(rows) > 100
    assert [key for key, meaning in rows if not meaning.strip()] == []


def test_every_page_is_in_the_navigation():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    groups = [str(pages) for group in site["nav"] for pages in group.values()]
    listed = {page for group in groups for page in re.findall(r"\w+\.\w+", group)}
    assert {path.name for path in DOCS.glob("*.md")} | {"quickstart.ipynb"} <= listed


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "tutorial/index.html").is_file()
    notebook = (tmp_path / "quickstart/index.html").read_text()
    figures = re.findall(r'<img[^>]*src="data:image/png;base64,', notebook)
    assert len(figures) == 3
    assert 'aria-label="Header"' in notebook
    tag = r"<(?:script|img|iframe|source)[^>]*\bsrc=|<link[^>]*rel=[\"']?(?:stylesheet|preconnect)[^>]*\bhref="
    loaded = re.compile(rf"(?:{tag})[\"']?(?:https?:)?//")
    for page in tmp_path.rglob("*.html"):
        assert not loaded.search(page.read_text()), page


def texts() -> set[str]:
    """What the package has as texts, without the values in them: the parts that messages are made of."""
    found: set[str] = set()
    for path in (ROOT / "src/tiny_audio").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.update(re.split(r"%(?:\.\d+)?[sdf]", node.value.replace("%%", "%")))
    return {text for text in found if len(text) >= MIN_TEXT}


def messages() -> list[str]:
    """The lines in the boxes of docs/troubleshooting.md."""
    boxes = re.findall(r"```text\n(.*?)```", (DOCS / "troubleshooting.md").read_text(), re.DOTALL)
    return [line for box in boxes for line in box.splitlines()]


@pytest.fixture(scope="module")
def said() -> set[str]:
    return texts()


def share_said(message: str, said: set[str]) -> float:
    """The share of a message that stands in the package as text."""
    covered = [False] * len(message)
    for text in said:
        if (start := message.find(text)) >= 0:
            covered[start : start + len(text)] = [True] * len(text)
    return sum(covered) / len(message)


@pytest.mark.parametrize("message", messages())
def test_a_message_in_troubleshooting_is_one_that_the_program_prints(message, said):
    assert share_said(message, said) > 0.4


def test_a_message_that_is_not_printed_is_found_out(said):
    assert share_said("Your batch of clips is too big for it; buy a larger machine.", said) < 0.1
