"""What Tab offers: asked of the program, and of a real bash that has loaded its script."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_audio.cli import COMMANDS, main
from tiny_audio.cli.completion import SCRIPTS, VALUES, offers, settings_of
from tiny_audio.config import Config


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("ta tr", ["train"]),
        ("ta train exp", ["experiment="]),
        ("ta train experiment=la", ["experiment=laptop", "experiment=laptop_lora", "experiment=laptop_text"]),
        ("ta train data=po", ["data=pocket"]),
        ("ta train experiment=laptop training.max_s", ["training.max_steps="]),
        ("ta train model.use_lora=", ["model.use_lora=true", "model.use_lora=false"]),
        ("ta train model.projector_type=mo", ["model.projector_type=mosa", "model.projector_type=moe"]),
        ("ta infer checkp", ["checkpoint="]),
        ("ta infer --checkp", ["--checkpoint="]),
        ("ta infer checkpoint=out", []),
        ("ta data ch", ["check"]),
        ("ta data check outp", ["output="]),
        ("ta completion z", ["zsh"]),
        ("ta nothing x", []),
    ],
)
def test_a_word_is_completed(line, wanted):
    assert offers(line) == wanted


def test_without_a_word_all_commands_are_offered():
    assert offers("ta ") == list(COMMANDS)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "completion"])
def test_every_command_offers_something(command):
    assert offers(f"ta {command} ")


def test_values_are_those_of_settings_that_exist():
    assert VALUES.keys() - {"device"} <= dict(settings_of(Config)).keys()


def test_a_shell_that_is_not_known(capsys):
    assert main(["completion", "csh"]) == 2
    assert "csh is not known" in capsys.readouterr().err


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_shell_can_read_its_script(shell, tmp_path, capsys):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert main(["completion", shell]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    result = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("ta train experiment=qu", ["quickstart"]),
        ("ta inf", ["infer"]),
        ("ta plot outputs/tra", []),
    ],
)
def test_bash_completes(line, wanted, tmp_path, capsys):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    program = tmp_path / "ta"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tiny_audio.cli "$@"\n')
    program.chmod(0o755)
    assert main(["completion", "bash"]) == 0
    script = (
        capsys.readouterr().out
        + f"""
PATH={tmp_path}:$PATH COMP_LINE='{line}' COMP_POINT={len(line)}
_ta
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    )
    result = subprocess.run([bash, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert result.stderr == ""
    assert result.stdout.split() == wanted


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("ta train model.use_lora=", ["model.use_lora=false", "model.use_lora=true"]),
        ("ta tr", ["train"]),
        ("ta infer audio=cl", ["audio=clips/"]),
        ("ta plot cl", ["clips/"]),
    ],
)
def test_fish_offers_files_only_where_nothing_else_is_known(line, wanted, tmp_path, monkeypatch, capsys):
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip("fish is not installed")
    (tmp_path / "clips").mkdir()
    (tmp_path / "train.py").touch()
    assert main(["completion", "fish"]) == 0
    script = (
        f"function ta; {sys.executable} -m tiny_audio.cli $argv; end\n{capsys.readouterr().out}complete -C '{line}'"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    found = subprocess.run([fish, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert (found.stdout.split(), found.stderr) == (wanted, "")
