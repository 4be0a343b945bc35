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
    assert {path.name for path in DOCS.glob("*.md")} <= listed


def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "tutorial/index.html").is_file()
    tag = r"<(?:script|img|iframe|source)[^>]*\bsrc=|<link[^>]*rel=[\"']?(?:stylesheet|preconnect)[^>]*\bhref="
    loaded = re.compile(rf"(?:{tag})[\"']?(?:https?:)?//")
    for page in tmp_path.rglob("*.html"):
        assert not loaded.search(page.read_text()), page


def templates() -> list[re.Pattern[str]]:
    """Every text of the package that could be a message, its values standing for anything."""
    found = []
    for path in (ROOT / "src/tiny_audio").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            if isinstance(node, ast.JoinedStr):
                parts = [re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+" for part in node.values]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts = [re.sub(r"%(?:\\\.\d+)?[sdf]", ".+", re.escape(node.value)).replace("%%", "%")]
            else:
                continue
            if sum(len(text) for text in texts if isinstance(text, str)) > MIN_TEXT:
                found.append(re.compile("".join(parts), re.DOTALL))
    return found


def messages() -> list[str]:
    """The lines in the boxes of docs/troubleshooting.md."""
    boxes = re.findall(r"```text\n(.*?)```", (DOCS / "troubleshooting.md").read_text(), re.DOTALL)
    return [line for box in boxes for line in box.splitlines()]


@pytest.fixture(scope="module")
def said() -> list[re.Pattern[str]]:
    return templates()


@pytest.mark.parametrize("message", messages())
def test_a_message_in_troubleshooting_is_one_that_the_program_prints(message, said):
    """The parts of it that the program has as texts cover nearly all of it."""
    covered = [False] * len(message)
    for template in said:
        if match := template.search(message):
            covered[match.start() : match.end()] = [True] * (match.end() - match.start())
    assert sum(covered) > 0.6 * len(message), message


def test_a_message_that_is_not_printed_is_found_out(said):
    assert not any(template.search("Your batch is too big; buy a larger machine.") for template in said)
