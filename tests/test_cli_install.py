"""`ta --install-completion`, in a home of its own."""

from __future__ import annotations

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


def test_a_new_bash_completes(home):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    program = home / "ta"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m tiny_audio.cli "$@"\n')
    program.chmod(0o755)
    assert main(["--install-completion", "bash"]) == 0
    script = f"PATH={home}:$PATH; source ~/.bashrc; COMP_LINE='ta tr' COMP_POINT=5; _ta; echo ${{COMPREPLY[@]}}"
    found = subprocess.run([bash, "-c", script], capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("train\n", "")
