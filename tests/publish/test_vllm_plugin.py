"""vLLM's plugin is found by its entry point, needs no vLLM to be imported, and names the class of exported folders."""

from __future__ import annotations

import ast
import importlib
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

from transformers import GlmAsrForConditionalGeneration

import tiny_audio

ROOT = Path(__file__).parents[2]


def test_the_entry_point_registers_a_class_that_is_there(monkeypatch):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["entry-points"]["vllm.general_plugins"]["tiny_audio"].partition(":")
    plugin = importlib.import_module(module)
    assert "vllm" not in sys.modules
    seen: list[tuple[str, str]] = []
    vllm = ModuleType("vllm")
    vllm.ModelRegistry = SimpleNamespace(register_model=lambda *named: seen.append(named))
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    getattr(plugin, function)()
    ((architecture, place),) = seen
    assert architecture == GlmAsrForConditionalGeneration.__name__
    name, _, kind = place.partition(":")
    file = Path(tiny_audio.__file__).parent.parent / (name.replace(".", "/") + ".py")
    assert kind in [node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
