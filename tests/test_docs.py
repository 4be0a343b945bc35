"""Every command that README and docs show can be typed as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tiny_audio.cli import COMMANDS, data, main
from tiny_audio.cli.options import Parser
from tiny_audio.config import PROJECTORS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What stands for something of the reader's.
PLACEHOLDER = re.compile(r"PATH|FILE|DIR|NAME|\.\.\.|\{|<")


class ArgumentsRead(Exception):
    """A command has read its arguments, and would begin to work."""


def commands() -> list[tuple[str, str, bool]]:
    """(page, command, whether it is whole) of every `ta` command: in blocks, joined over line ends, and in the text,
    which may name a part of one.
    """
    found = []
    for page in PAGES:
        text = page.read_text()
        blocks = "\n".join(re.findall(r"```(?:\w*)\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
        lines = [(line.strip(), True) for line in blocks.splitlines()]
        lines += [
            (line, False) for line in re.findall(r"`(ta [^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        ]
        found += [
            (page.name, line.partition("  #")[0], whole)
            for line, whole in lines
            if line.startswith("ta ") and " error: " not in line
        ]
    return sorted(set(found))


def test_the_pages_show_commands():
    shown = {command.split()[1] for _, command, _ in commands()}
    assert {"train", "infer", "eval", "clean-checkpoints", "average", "plot", "sweep", "benchmark", "data"} <= shown


@pytest.mark.parametrize(("page", "command", "whole"), commands())
def test_a_shown_command_is_known_and_its_settings_compose(page, command, whole, tmp_path, monkeypatch, capsys):
    if page == "extending.md":
        write_preset(tmp_path)
        monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PROJECTORS, "pool", "pool.PoolProjector")  # the fifth that docs/projectors.md adds
    name, *arguments = shlex.split(command)[1:]
    if name.startswith("-") or name == "COMMAND":
        return
    assert name in COMMANDS, f"{page}: {command}"
    if name == "train" and "-m" not in arguments and not PLACEHOLDER.search(command):
        arguments = arguments if "--cfg" in arguments else [*arguments, "--cfg", "job"]
        assert main([name, *arguments]) == 0, capsys.readouterr().err
    if name == "data" and not PLACEHOLDER.search(command):
        parse = {"check": data.parse_check, "preview": data.parse_preview}[arguments[0]]
        assert data.configure(parse(arguments[1:])).data.datasets
    if whole and name not in ("train", "data"):
        parse_arguments(name, arguments, monkeypatch)


def parse_arguments(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a command read its arguments, and go no further."""
    read = Parser.read

    def read_only(parser: Parser, argv: list[str]) -> None:
        read(parser, argv)
        raise ArgumentsRead

    monkeypatch.setattr(Parser, "read", read_only)
    if "--help" in arguments:
        return
    with pytest.raises(ArgumentsRead):
        main([name, *arguments])


def test_a_command_with_an_option_that_there_is_not_is_found(monkeypatch):
    with pytest.raises(pytest.fail.Exception):
        parse_arguments("plot", ["outputs/quickstart", "--color=red"], monkeypatch)


def write_preset(folder: Path) -> None:
    """The preset of docs/extending.md, where it is to lie."""
    text = (ROOT / "docs/extending.md").read_text()
    name = re.search(r"`(presets/data/\w+\.yaml)`", text)[1]
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])


@pytest.mark.parametrize(
    "settings",
    [
        "experiment=transcription data.max_samples=50 training.batch_size=1",
        "experiment=transcription data.max_samples=10 data.num_workers=0",
        "training.batch_size=32",
        "data=librispeech",
        "training=fast",
        "experiment=mosa data=common_voice training=high_quality training.batch_size=8",
        *(f"experiment={name}" for name in ("mosa", "moe", "qformer", "mlp_lora", "mlp_fine_tune")),
        "experiment=transcription training.resume_from_checkpoint=outputs/x/checkpoints/checkpoint-step-5.pt",
    ],
)
def test_settings_that_people_type_compose(settings, capsys):
    assert main(["train", *settings.split(), "--cfg", "job"]) == 0, capsys.readouterr().err


def test_the_clip_that_the_architecture_page_follows_has_the_shapes_that_it_shows(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs/architecture.md").read_text()
    code, shown = (re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL)[1] for kind in ("python", "text"))
    exec(code, {})
    assert capsys.readouterr().out == shown


def test_the_files_that_the_architecture_page_names_are_there():
    text = (ROOT / "docs/architecture.md").read_text()
    for name in re.findall(r"`((?:[a-z_]+/)+[a-z_]*(?:\.py)?|[a-z_]+\.py)`", text):
        assert (ROOT / "src/tiny_audio" / name).exists() or (ROOT / name).exists(), name
    for class_, method in re.findall(r"`([A-Z]\w+)\.(\w+)`", text):
        assert re.search(rf"def {method}\(", "".join(p.read_text() for p in (ROOT / "src").rglob("*.py"))), class_
