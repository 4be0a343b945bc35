"""`ta --install-completion`, in a home of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_audio.cli import main
from tiny_audio.cli.completion import SCRIPTS


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    for name in ("XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "typed", [["--install-completion"], ["--install-completion", "bash"], ["--install-completion=bash"]]
)
def test_a_line_is_added_once_and_the_rest_stays(typed, home, monkeypatch, capsys):
    monkeypatch.setenv("SHELL", "/usr/local/bin/bash")
    rc = home / ".bashrc"
    rc.write_text("alias ll='ls -l'")  # without the end of a line
    rc.chmod(0o600)
    assert main(typed) == 0
    assert f"Added to {rc}. Open a new bash" in capsys.readouterr().out
    once = rc.read_text()
    assert once.startswith("alias ll='ls -l'\n")
    assert once.count('eval "$(ta completion bash)"') == 1
    assert rc.stat().st_mode & 0o777 == 0o600
    assert main(typed) == 0
    assert "has it already" in capsys.readouterr().out
    assert rc.read_text() == once


def test_zsh_gets_compinit_where_it_has_none(home, monkeypatch):
    assert main(["--install-completion", "zsh"]) == 0
    lines = (home / ".zshrc").read_text().splitlines()
    assert lines.index("autoload -Uz compinit && compinit") < lines.index('eval "$(ta completion zsh)"')
    elsewhere = home / "zsh"
    monkeypatch.setenv("ZDOTDIR", str(elsewhere))
    elsewhere.mkdir()
    (elsewhere / ".zshrc").write_text("autoload -U compinit\ncompinit -u\n")
    assert main(["--install-completion", "zsh"]) == 0
    assert (elsewhere / ".zshrc").read_text().count("compinit") == 2


def test_fish_gets_a_file(home):
    assert main(["--install-completion", "fish"]) == 0
    assert (home / ".config/fish/completions/ta.fish").read_text() == SCRIPTS["fish"]


def test_a_link_stays_a_link(home):
    kept = home / "dotfiles/bashrc"
    kept.parent.mkdir()
    kept.touch()
    (home / ".bashrc").symlink_to(kept)
    assert main(["--install-completion", "bash"]) == 0
    assert (home / ".bashrc").is_symlink()
    assert "ta completion bash" in kept.read_text()


@pytest.mark.parametrize(("typed", "shell"), [([], "/bin/tcsh"), ([], ""), (["csh"], "/bin/bash"), (["bash", "x"], "")])
def test_a_shell_that_is_not_known(typed, shell, home, monkeypatch, capsys):
    monkeypatch.setenv("SHELL", shell)
    assert main(["--install-completion", *typed]) == 2
    assert "names no shell that is known" in capsys.readouterr().err
    assert list(home.iterdir()) == []


def test_a_file_that_cannot_be_changed(home, capsys):
    (home / ".bashrc").mkdir()
    assert main(["--install-completion", "bash"]) == 2
    assert "cannot be changed" in capsys.readouterr().err


@pytest.fixture
def program(home, monkeypatch) -> Path:
    """`ta` as a shell finds it, and something to complete."""
    program = home / "ta"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tiny_audio.cli "$@"\n')
    program.chmod(0o755)
    (home / "outputs").mkdir()
    (home / "outputs/final.pt").touch()
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    return program


def test_a_new_bash_completes(program, home):
    bash = find_shell("bash")
    assert main(["--install-completion", "bash"]) == 0
    script = "source ~/.bashrc; COMP_LINE='ta tr' COMP_POINT=5; _ta; echo ${COMPREPLY[@]}"
    found = subprocess.run([bash, "-c", script], capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("train\n", "")


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("ta train experiment=la", ["experiment=laptop", "experiment=laptop_lora", "experiment=laptop_text"]),
        ("ta infer checkpoint=outputs/f", ["checkpoint=outputs/final.pt"]),
    ],
)
def test_a_new_fish_completes(line, wanted, program, home):
    fish = find_shell("fish")
    assert main(["--install-completion", "fish"]) == 0
    found = subprocess.run([fish, "-c", f"complete -C '{line}'"], capture_output=True, text=True, cwd=home)
    assert (found.stdout.splitlines(), found.stderr) == (wanted, "")


# Ctrl+X writes what stands on the line after Tab into a file; the keys are read one after another.
KEYS = r"""
zmodload zsh/zpty
zpty z 'zsh -i'
zpty -w z 'dump() { print -r -- "$BUFFER" > line.part; mv line.part line; }; zle -N dump; bindkey "^X" dump; : > ready'
wait_for() { repeat 600; do [[ -e $1 ]] && return; zpty -rt z ignored; sleep 0.05; done; return 1 }
wait_for ready && zpty -wn z "$LINE"$'\t\x18' && wait_for line
"""


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("ta train model.use_lora=t", "ta train model.use_lora=true"),
        ("ta infer checkpoint=outputs/f", "ta infer checkpoint=outputs/final.pt"),
    ],
)
def test_a_new_zsh_completes(line, wanted, program, home, monkeypatch):
    zsh = find_shell("zsh")
    assert main(["--install-completion", "zsh"]) == 0
    monkeypatch.setenv("LINE", line)
    subprocess.run([zsh, "-f", "-c", KEYS], check=True, cwd=home, timeout=60)
    assert (home / "line").read_text().strip() == wanted


def find_shell(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found
