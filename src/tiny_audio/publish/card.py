"""The model card of a trained model: its parts, its error rates, its license, and how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ..errors import UserError
from ..evaluation.report import ALL
from ..pages import render
from .folder import public_name
from .licenses import license_of, licenses_of_parts

Row = Mapping[str, Any]
TASK = "automatic-speech-recognition"


def read_figures(path: Path, provenance: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a report of `ta eval` for a model: one for each set.

    The rows are found by the fingerprint of the weights; the step is not enough, since other runs have it too.

    Args:
        path: `eval.json`, or the folder that holds it.
        provenance: of the exported folder.

    Raises:
        UserError: the report cannot be read, or is of other weights.
    """
    file = path / "eval.json" if path.is_dir() else path
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["results"]
        own = [row for row in rows if row.get("weights") and row["weights"] == provenance.get("weights")]
        judged = sorted({f"{public_name(row['checkpoint'])} of step {row['step']}" for row in rows})
        own = [row for row in own if row["checkpoint"] == own[0]["checkpoint"] and row["dataset"] != ALL]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"report={path} is not a report of `ta eval report=FOLDER` ({type(error).__name__}).") from None
    if not own:
        raise UserError(
            f"report={path} is about {', '.join(judged)}; this model of step {provenance['step']} has other weights. "
            "Judge it again: ta eval checkpoint=PATH report=FOLDER"
        )
    return own


def build_card(record: Mapping[str, Any], repo: str, figures: Sequence[Row], license: str | None) -> str:
    """Return README.md, with its metadata.

    Args:
        record: the exported folder's record of itself.
        repo: `user/name`.
        figures: as `read_figures` returns them; empty: those of the run's own evaluation, if there are any.
        license: the publisher's choice; None: what its parts allow.

    Raises:
        UserError: an open license is asked for, and a part forbids it.
    """
    about = record["provenance"]
    claimed = license_of(about, license)
    name = repo.rpartition("/")[2]
    settings = record["config"]["data"]
    case = {"lower": "in lower case", "keep": "in their own case"}
    projector = f"`{record['config']['model']['projector_type']}` projector"
    return render(
        "publish/card.md.jinja",
        record=record,
        about=about,
        data=settings,
        window=record["config"]["model"]["encoder_window"],
        metadata=_metadata(record, name, figures, claimed),
        name=name,
        repo=repo,
        trained=", ".join(projector if part == "projector" else part for part in about["trained"]),
        frozen="encoder" if "decoder" in about["trained"] else "encoder and decoder",
        case=case.get(settings["text_case"], f"case: {settings['text_case']}"),
        figures=figures,
        rules={row["scoring"]: row["normalization"] for row in figures},
        public_name=public_name,
        licenses=licenses_of_parts(about),
        claimed=claimed,
    )


def _metadata(record: Mapping[str, Any], name: str, figures: Sequence[Row], license: str) -> str:
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
        license=license,
        pipeline_tag=TASK,
        tags=["tiny-audio", "speech", "speech-llm"],
        model_name=name if results else None,
        eval_results=results or None,
    )
    return str(data)
