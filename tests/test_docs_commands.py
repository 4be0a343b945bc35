"""Every command that README and docs show is run, in a folder where all that it names is there in small."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch

from docs_folder import CTC, OURS, ROOT, SMALL, make
from test_typed import OTHERS, TRAIN
from tiny_audio.cli import main
from tiny_audio.model.device import multiplies_bf16

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = {"ta", "python", "python3", "pip", "make", "pytest", "torchrun", "accelerate", "wandb", "vllm", "curl"}
PROGRAMS |= {"mkdocs", "jupyter-execute", ".venv/bin/pre-commit"}
NAMES = {
    "PATH": "outputs/transcription/checkpoints/checkpoint-step-1.pt",
    "DIR": "outputs/transcription",
    "CHECKPOINT": "final.pt",
    "ENCODER": "openai/whisper-base",
    "DATA": "my/dev.jsonl",
}
NETWORK = "installs from a network"
ACCOUNT = "needs an account or a cluster: tests/test_wandb_sweep.py and tests/test_slurm.py have stand-ins"
PAGE = "needs the code of its page: tests/test_docs_run.py, tests/model"
HUB = "asks the Hub: tests/publish has a stub of it"
STOPPED = "runs until it is stopped: tests/test_docs_run.py, tests/serve"
# What is not run here: a pattern of the whole command, and the reason, with the tests in its place.
LEFT_OUT = {
    r"make (quickstart|setup)|pip install .*|python3 -m venv .*|\.venv/bin/pre-commit install": NETWORK,
    r"make (test|lint)|pytest .*|mkdocs .*": "runs tests, linters or the site: they run themselves",
    r"torchrun .*|accelerate launch .*": "needs several processes: tests/training/test_processes.py",
    r"wandb .*|ta train -m hydra/launcher=submitit_slurm .*": ACCOUNT,
    r"vllm serve .*|python benchmarks/serving\.py .*|curl http://localhost:8000.*": "needs vLLM",
    r"ta push .*report=judged|ta push .*--yes": HUB,
    r"ta (serve|demo) .*|curl http://127\.0\.0\.1.*": STOPPED,
    r"benchmarks/gpu\.sh.*": "needs hours of a GPU: tests/gpu",
    r"recipes/three_stages\.sh": "takes a quarter of an hour",
    r"python benchmarks/(projectors|warmup|data|streaming|serve_load)\.py.*": "takes minutes to hours",
    r"python benchmarks/(long_recordings|decoding|encoder|examples)\.py.*": "takes minutes to hours",
    r"ta (data check|train) --config-dir presets .*|ta train model\.encoder=Qwen/Qwen2-Audio-7B": PAGE,
    r"ta eval .*scoring=no-accents.*|ta train .*projector_type=pool": PAGE,
    r"ta train .*name: librispeech.*": HUB,
    r"ta benchmark .*--attention varlen": "needs a GPU: tests/gpu",
    r"ta --install-completion": "changes the files of the user's shell: tests/test_cli_install.py",
}
MULTIPLIES_BF16 = multiplies_bf16(torch.device("cpu"))  # the fixtures say no, for the same figures everywhere
# Several seconds of a core each.
SLOW = re.compile(r"ta train -m .*|ta sweep .*|ta benchmark.*|ta export .*|ta doctor|ta data check .*|ta train [^e].*")
# What the text calls a command by, without what it needs to be one.
NAMED = re.compile(
    r"ta [a-z][a-z-]*( check| preview)?|ta eval --checkpoints-dir|ta infer call\.wav@1"
    r"|accelerate launch|vllm serve|[a-z]+"
)
REPLACED = re.compile(
    r"training\.(max_steps|warmup_steps|batch_size|gradient_accumulation_steps|eval_steps|eval_at_start|max_new_tokens|ctc_min_count)="
    r"|data\.(max_eval_samples|num_workers)=|logging\.use_wandb="
)


def commands(*texts: str) -> list[str]:
    """Every command of a block of these texts, and every one with arguments between the blocks, once."""
    found: dict[str, None] = {}
    for text in texts:
        blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        joined = [block.replace("\\\n", " ") for kind, block in blocks if kind in ("", "sh")]
        inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
        for line in [*"\n".join(joined).splitlines(), *(one for one in inline if not NAMED.fullmatch(one))]:
            command = " ".join(re.sub(r"\s+#.*", "", line).split())
            script = re.match(r"(benchmarks|recipes)/\w+\.sh\b", command)
            if script or command.split(" ")[0] in PROGRAMS:
                found[command] = None
    return [command for command in found if "..." not in command]


def left_out(command: str) -> bool:
    return any(re.fullmatch(pattern, command) for pattern in LEFT_OUT)


def effective(command: str) -> tuple[str, ...]:
    """The arguments as they are run: without the settings that `SMALL` replaces."""
    words = [NAMES.get(word, word) for word in shlex.split(command)]
    words = [re.sub("=PATH$", "=" + NAMES["PATH"], word) for word in words]
    if words[:2] == ["ta", "train"] and "-m" not in words:
        words = [word for word in words if not REPLACED.match(word)]
        words = [word for word in words if word != "experiment=transcription"]  # the default
    return tuple(words)


SHOWN = commands(*(page.read_text() for page in PAGES))
TO_RUN = {effective(command): command for command in SHOWN if not left_out(command)}
# By default tests/test_typed.py runs these with the tiny models, and tests/test_docs_run.py the tutorial as it stands.
TUTORIAL = (ROOT / "docs/tutorial.md").read_text().partition("## With models of full size")[0]
RUN_ELSEWHERE = {effective(command) for command in (*TRAIN, *OTHERS, *commands(TUTORIAL))}


def test_every_line_of_the_table_is_of_a_command_that_is_shown():
    unused = [pattern for pattern in LEFT_OUT if not any(re.fullmatch(pattern, command) for command in SHOWN)]
    assert unused == []
    for place in re.findall(r"tests/[\w/.]+\w", " ".join(LEFT_OUT.values())):
        assert (ROOT / place).exists(), place
    assert len(TO_RUN) > 60


@pytest.fixture(scope="module")
def shipped(tiny_models, tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("docs") / "folder", tiny_models)


def copy_or_link(source: str, target: str) -> None:
    """Checkpoints are replaced, never written into: a second name is as good as a copy."""
    (os.link if source.endswith(".pt") else shutil.copy2)(source, target)


@pytest.fixture
def place(shipped, tmp_path, monkeypatch) -> Path:
    """A folder of its own for each command: what lies there is linked, what it may change is copied."""
    for path in shipped.iterdir():
        if path.name == "outputs":
            shutil.copytree(path, tmp_path / path.name, copy_function=copy_or_link)
        else:
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(
            words, id=command, marks=[pytest.mark.slow] * (words in RUN_ELSEWHERE or bool(SLOW.fullmatch(command)))
        )
        for words, command in TO_RUN.items()
    ],
)
@pytest.mark.filterwarnings(  # torch's, of what is typed
    "ignore:`torch.jit", "ignore:This DataLoader will create", "ignore:The .grad attribute"
)
def test_a_command_runs(words, place, monkeypatch, capsys):
    if "bf16" in words and not MULTIPLIES_BF16:
        pytest.skip("this CPU computes bf16 in software: a step takes many minutes")
    if "outputs/*" in words:
        shutil.rmtree("outputs/light")  # holds a run, and is none
    words = [name for word in words for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
    if words[0] != "ta":
        assert words[0] == "python"
        monkeypatch.setattr(sys, "argv", words[1:])
        runpy.run_path(words[1], run_name="__main__")
        return
    small = smaller(words)
    status = main([*words[1:], *small])
    # A check that finds something grave, and noise is no speech, ends with 1.
    assert status in ((0, 1) if words[1:3] == ["data", "check"] else (0,)), capsys.readouterr().err


def smaller(words: list[str]) -> list[str]:
    """The settings that make a command small, and a place for what it writes."""
    name = words[1]
    shown = " ".join(words)
    own = re.search(r"data\.(datasets|train_path|eval_path|eval_datasets)|data=(custom|pocket|talks)|quickstart", shown)
    if "--cfg" in words or "--help" in words:
        return []
    if name == "train":
        experiment = re.search(r"\bexperiment=(\w+)", shown)
        if "resume_from" not in shown:
            output = re.search(r"\bpaths\.output_dir=(\S+)", shown)
            name = experiment[1] if experiment else "transcription"
            shutil.rmtree(Path(output[1] if output else "outputs", name), ignore_errors=True)
        steps = ["training.max_steps=2"] if "resume_from" in shown else []
        if re.search(r"experiment=laptop\b(?!_)", shown):  # only the warm-up: its frozen decoder reads no audio
            steps = ["training.max_steps=0"]
        ctc = [] if re.search("quickstart|ctc_warmup_steps=0", shown) else CTC
        searched = [s for s in SMALL if not ("-m" in words and s.partition("=")[0] in shown)]
        return [*searched, *([] if own else OURS), *steps, *ctc]
    if name == "sweep":
        words[:] = [word for word in words if not word.startswith("trials=")]
        return ["trials=1", *SMALL, *CTC, *OURS]
    if name == "eval":
        if "report=judged" in words:
            Path("judged").unlink()
        return [] if "predictions" in shown else ["data.max_eval_samples=2", *([] if own else OURS[1:])]
    if name == "benchmark":
        wanted = {
            "--encoder-layers": "1",
            "--decoder-layers": "1",
            "--steps": "1",
            "--batch-size": "1",
            "--seconds": "2",
            "--device": "cpu",
        }
        if "--batch-size" in words:  # so do 32 clips
            words[words.index("--batch-size") + 1] = "2"
        return [part for option, value in wanted.items() if option not in words for part in (option, value)]
    if name == "data":
        return [] if own or "my/" in shown else OURS
    if name == "export":
        Path("my-recognizer").unlink()
    return []
