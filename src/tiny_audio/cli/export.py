"""`ta export checkpoint=PATH output=FOLDER`: export a model to a folder, and compare it with the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import SearchConfig
from ..errors import UserError
from .options import Parser

if TYPE_CHECKING:
    import numpy as np

    from ..publish.proof import Proof

EPILOG = """\
examples:
  ta export checkpoint=outputs/transcription/checkpoints/final.pt output=my-recognizer
  ta export checkpoint=final.pt output=my-recognizer dtype=bfloat16 clips=50
  ta export checkpoint=final.pt output=my-recognizer audio=a.wav,b.wav

Where encoder, projector and decoder have a native class, the folder is one that plain transformers load; else
it is one that tiny_audio.load_model and `ta infer checkpoint=FOLDER` open. Adapters are merged into the decoder."""
DTYPES = ("float32", "bfloat16")


def run(argv: list[str]) -> int:
    """Run `ta export` with these arguments and return the exit status: 1 if the folder writes other transcripts.

    Raises:
        UserError: one line for the person who typed them.
    """
    parser = Parser(
        "ta export",
        "ta export checkpoint=PATH output=FOLDER [clips=N] [audio=FILE,FILE] [dtype=...]",
        "Write a trained model as a folder that runs elsewhere, and compare the two.",
        EPILOG,
    )
    add = parser.add_argument
    add("--checkpoint", help="final.pt, or the folder of a run")
    add("--output", help="a new folder")
    add("--clips", type=int, default=8, help="evaluation clips that are compared; 0: none (default: %(default)s)")
    add("--audio", help="compare these recordings instead (separated by commas, at most 30 s each)")
    add("--dtype", choices=DTYPES, default="float32", help="of the weights written (default: %(default)s)")
    add("--encoder", help="the encoder's present folder, if it was moved")
    add("--decoder", help="the decoder's present folder, if it was moved")
    args = parser.read(argv)
    if not args.checkpoint or not args.output:
        raise UserError(
            "name a checkpoint and a folder: ta export checkpoint=outputs/.../final.pt output=my-recognizer"
        )
    if args.clips < 0:
        raise UserError(f"clips must be at least 0, got {args.clips}.")
    folder = Path(args.output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"output={folder} exists already; delete it, or name another folder.")
    import torch

    from ..inference.opened import open_model
    from ..model.checkpointed import rebuild
    from ..publish.folder import write_folder
    from ..publish.proof import prove

    opened = open_model(args.checkpoint)
    if opened.encoder is not None:
        raise UserError(f"{args.checkpoint} is an exported folder already; name a checkpoint.")
    waveforms = read_clips(args, opened.saved)
    model = rebuild(opened.saved, opened.path, torch.float32, args.encoder, args.decoder)
    reason = write_folder(model, opened.saved, folder, getattr(torch, args.dtype))
    if reason is not None:
        print(f"{folder}: opens with tiny_audio.load_model and `ta infer checkpoint={folder}`. It is not a native")
        print(f"transformers folder, because {reason}.")
        return 0
    print(f"{folder}: a GlmAsrForConditionalGeneration for plain transformers.")
    if not waveforms:
        print("Not compared with the checkpoint: there were no clips; name some with audio=FILE,FILE.")
        return 0
    if model.search.beams > 1:
        print(f"The checkpoint searches with its CTC head (beams={model.search.beams}), which transformers cannot:")
        print("the comparison is of greedy transcripts.")
        model.search = SearchConfig()
    proof = prove(model, folder, waveforms)
    for line in judge(proof, model.encoder.encoder_window):
        print(line)
    way = own_way(proof, model.encoder.encoder_window)
    return int(proof.ways[way].same < len(proof.expected))


def own_way(proof: Proof, encoder_window: str) -> str:
    """Return the checkpoint's own way of padding, or the nearest one of the native class."""
    return "bare" if encoder_window == "clip" and "bare" in proof.ways else "stock"


def judge(proof: Proof, encoder_window: str) -> list[str]:
    """Return the result of the comparison, and what to do if the two differ."""
    names = {"stock": "padded with silence to 30 s, as by default", "bare": "one bare clip at a time"}
    count = len(proof.expected)
    lines = [
        f"Plain transformers, {names[name]}: {way.same} of {count} clips have the checkpoint's text; logits differ by "
        f"at most {way.difference:.1e} of their standard deviation."
        for name, way in proof.ways.items()
        if name == "stock" or encoder_window == "clip"
    ]
    own = own_way(proof, encoder_window)
    if own == "bare":
        lines.append(
            'It was trained on bare clips (model.encoder_window=clip): call the processor with padding="longest", '
            "pad_to_multiple_of=1280, one clip at a time. For default padding and servers train with "
            "model.encoder_window=30s."
        )
    elif encoder_window == "clip":
        lines.append(
            "It was trained on bare clips (model.encoder_window=clip), and the native class of its encoder has windows "
            "of 30 s alone. If the texts differ train with model.encoder_window=30s."
        )
    elif encoder_window == "padded":
        lines.append(
            "It was trained with some silence around each clip (model.encoder_window=padded), which no processor of "
            "transformers adds. If the texts differ train with model.encoder_window=30s."
        )
    for expected, text in zip(proof.expected, proof.ways[own].texts, strict=True):
        if expected != text:
            lines += [f"  checkpoint    {expected}", f"  transformers  {text}"]
    return lines


def read_clips(args: Any, saved: dict[str, Any]) -> Sequence[np.ndarray]:
    """Return the named recordings, or the first clips of the run's evaluation sets; none if there are no sets.

    Raises:
        UserError: a named recording cannot be read, or is longer than 30 s.
    """
    from ..audio import AudioError, load_audio
    from ..config import build_config
    from ..data.sources import open_sources
    from ..lengths import MAX_CLIP_SECONDS

    if args.audio:
        found = []
        for path in args.audio.split(","):
            try:
                found.append(load_audio(path, max_seconds=MAX_CLIP_SECONDS))
            except AudioError as error:
                raise UserError(f"audio={path}: {error}.") from None
        return found
    config = build_config(saved["config"])
    if not args.clips or not config.data.eval_datasets:
        return []
    try:
        sources = open_sources(
            config.data.eval_datasets,
            config.data,
            Path(config.paths.cache_dir),
            limit=args.clips,
            seed=config.training.seed,
            data_dir=Path(config.paths.data_dir),
            evaluation=True,
        )
        return [source.read(row) for source in sources for row in range(len(source))][: args.clips]
    except (UserError, AudioError) as error:
        print(f"The evaluation set cannot be read ({error})")
        return []
