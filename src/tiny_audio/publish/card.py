"""The model card of a trained model: what it was made of, how well it does, what may be done with it, how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..errors import UserError
from ..evaluation.report import ALL
from .folder import public_name
from .licences import licence_of, licences_of_parts

Row = Mapping[str, Any]
TASK = "automatic-speech-recognition"
WINDOW_USE = """\
inputs = processor(text=[prompt], audio=[samples], sampling_rate=16_000)  # float samples (S,), at most 30 s"""
CLIP_USE = """\
inputs = processor(  # float samples (S,), one recording of at most 30 s at a time
    text=[prompt], audio=[samples], sampling_rate=16_000, padding="longest", pad_to_multiple_of=1280
)"""


def read_figures(path: Path, step: int) -> list[Row]:
    """Return the rows of a report of `ta eval` that are about the checkpoint of a step: one for each set.

    Args:
        path: `eval.json`, or the folder that holds it.
        step: of the checkpoint.

    Raises:
        UserError: it cannot be read, or judged other checkpoints.
    """
    file = path / "eval.json" if path.is_dir() else path
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["results"]
        own = [row for row in rows if row["step"] == step]
        steps = sorted({str(row["step"]) for row in rows})
        own = [row for row in own if row["checkpoint"] == own[0]["checkpoint"] and row["dataset"] != ALL]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"report={path} is no report of `ta eval report=FOLDER` ({type(error).__name__}).") from None
    if not own:
        raise UserError(f"report={path} is about step {', '.join(steps)}, and this model is of step {step}.")
    return own


def build_card(record: Mapping[str, Any], repo: str, figures: Sequence[Row], licence: str | None) -> str:
    """Return README.md, with its metadata.

    Args:
        record: what the exported folder says of itself.
        repo: `user/name`.
        figures: as `read_figures` returns them; none: those of the run's own evaluation, if there are any.
        licence: what the one who publishes it says; None: what its parts allow.

    Raises:
        UserError: an open licence is asked for, and a part forbids it.
    """
    about = record["provenance"]
    claimed = licence_of(about, licence)
    name = repo.rpartition("/")[2]
    sections = [
        f"# {name}",
        _what_it_is(record),
        "## Trained on\n\n" + _trained_on(record),
        "## Figures\n\n" + _figures(about, figures),
        "## Use\n\n" + _use(record, repo),
        "## Licences\n\n" + _licences(about, claimed),
    ]
    return f"---\n{_metadata(record, name, figures, claimed)}\n---\n\n" + "\n\n".join(sections) + "\n"


def _metadata(record: Mapping[str, Any], name: str, figures: Sequence[Row], licence: str) -> str:
    about = record["provenance"]
    origins = [corpus["origin"].partition("@") for corpus in about["corpora"].values()]
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=public_name(row["dataset"]),
            dataset_name=public_name(row["dataset"]),
            metric_type="wer",
            metric_name=f"WER, scored by {row['scoring']}",
            metric_value=round(100 * row["wer"], 2),
        )
        for row in figures
    ]
    data = ModelCardData(
        base_model=[about[part]["name"] for part in ("encoder", "decoder") if "/" in about[part]["name"]] or None,
        datasets=sorted({hub_id for hub_id, at, _ in origins if at and "/" in hub_id}) or None,
        language=about.get("languages") or None,
        library_name="transformers" if record["native"] else "tiny-audio",
        license=licence,
        pipeline_tag=TASK,
        tags=["tiny-audio", "speech", "speech-llm"],
        model_name=name if results else None,
        eval_results=results or None,
    )
    return str(data)


def _what_it_is(record: Mapping[str, Any]) -> str:
    about, model = record["provenance"], record["config"]["model"]
    parts = [
        f"- {part}: `{about[part]['name']}`"
        + (f" at `{revision[:12]}`" if (revision := about[part]["revision"]) else "")
        for part in ("encoder", "decoder")
    ]
    trained = ", ".join(f"`{model['projector_type']}` projector" if t == "projector" else t for t in about["trained"])
    frozen = "encoder" if "decoder" in about["trained"] else "encoder and decoder"
    lines = [
        "A speech recogniser: a frozen speech encoder, a projector, and a language model that writes the transcript. "
        f"Made with Tiny Audio {record['tiny_audio']}.",
        "\n".join([*parts, f"- trained: {trained}; the weights of {frozen} are as their makers left them"]),
    ]
    return "\n\n".join(lines)


def _trained_on(record: Mapping[str, Any]) -> str:
    about, data = record["provenance"], record["config"]["data"]
    training = about["training"]
    rows = ["| corpus | clips | hours | weight in the mixture |", "|---|---:|---:|---:|"]
    for name, corpus in about["corpora"].items():
        hours = "not known" if corpus["hours"] is None else f"{corpus['hours']:,.1f}"
        origin = corpus["origin"] if "@" in corpus["origin"] else name
        rows.append(f"| {origin} | {corpus['clips']:,} | {hours} | {corpus['weight']:g} |")
    case = {"lower": "in lower case", "keep": "in their own case"}.get(data["text_case"], f"case: {data['text_case']}")
    text = (
        f"{about['step']:,} steps of {training['batch_size']} clips, at most {data['max_audio_length']:g} s each, "
        f"learning rate {training['learning_rate']:g}. Transcripts are {case}, "
        f"{'with' if data['keep_punctuation'] else 'without'} punctuation."
    )
    if about.get("earlier_stage"):
        text += " The run started from a checkpoint of an earlier stage, whose corpora are not listed here."
    return "\n".join(rows) + "\n\n" + text


def _figures(about: Mapping[str, Any], figures: Sequence[Row]) -> str:
    if not figures:
        last = about["history"][-1:] if about["history"] else []
        seen = [f"In training, at step {row['step']:,}, its WER was {row['wer']:.1%} (ours)." for row in last]
        return " ".join([*seen, "It was not judged with `ta eval`: there are no intervals."])
    rows = ["| set | clips | words | WER | 95 % interval | scored by | CER |", "|---|---:|---:|---:|---:|---|---:|"]
    for row in figures:
        low, high = 100 * row["wer_low"], 100 * row["wer_high"]
        rows.append(
            f"| {public_name(row['dataset'])} | {row['clips']:,} | {row['words']:,} | {row['wer']:.1%} | "
            f"{low:.1f} to {high:.1f} % | {row['scoring']} | {row['cer']:.1%} |"
        )
    rules = {row["scoring"]: row["normalization"] for row in figures}
    return "\n".join([*rows, "", *(f"Scored by {name}: {description}." for name, description in rules.items())])


def _use(record: Mapping[str, Any], repo: str) -> str:
    here = (
        "In [Tiny Audio](https://pypi.org/project/tiny-audio/), recordings of any length:\n\n"
        "```python\nimport tiny_audio\n\n"
        f'model = tiny_audio.load_model("{repo}")\nprint(model.transcribe("talk.m4a").text)\n```'
    )
    if not record["native"]:
        return here
    inputs = WINDOW_USE if record["config"]["model"]["encoder_window"] == "30s" else CLIP_USE
    plain = f"""\
In plain transformers:

```python
from transformers import AutoModelForMultimodalLM, AutoProcessor

processor = AutoProcessor.from_pretrained("{repo}")
model = AutoModelForMultimodalLM.from_pretrained("{repo}")
prompt = processor.apply_chat_template([{{"role": "user", "content": "Transcribe."}}], tokenize=False)
{inputs}
ids = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
print(processor.batch_decode(ids, skip_special_tokens=True)[0].strip())
```"""
    return f"{here}\n\n{plain}" + (f"\n\n{_served(repo)}" if inputs == WINDOW_USE else "")


def _served(repo: str) -> str:
    return (
        f"In vLLM: `vllm serve {repo} --model-impl transformers`, then chat completions with one `input_audio` of at "
        "most 30 s a message."
    )


def _licences(about: Mapping[str, Any], claimed: str) -> str:
    parts = licences_of_parts(about)
    rows = ["| part | licence |", "|---|---|", *(f"| {part} | {own or 'not known'} |" for part, own in parts.items())]
    if claimed != "other":
        said = f"These weights are published under `{claimed}`."
    elif None in parts.values():
        said = "No licence is claimed for these weights: that of a part is not known. Ask its makers."
    else:
        said = "No open licence is claimed for these weights: the licences of the parts go with them."
    return "\n".join([*rows, "", said])
