"""`ta push checkpoint=PATH repo=user/name`: upload a model to the Hub, with a card, and only with --yes."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from .export import DTYPES
from .options import Parser
from .output import check_output, write_output

EPILOG = """\
examples:
  ta push checkpoint=my-recognizer repo=user/my-recognizer report=judged --dry-run
  ta push checkpoint=my-recognizer repo=user/my-recognizer report=judged --yes
  ta push checkpoint=outputs/transcription repo=user/my-recognizer private=true --yes

A checkpoint is exported first, as `ta export` does, without the comparison that it makes. Figures come from report=,
the folder that `ta eval checkpoint=... report=FOLDER` wrote. An open license is claimed where those of all models and
corpora are known and allow it, or where license= names one and none is known to forbid it. A README.md in the folder
is used unchanged; to edit the card, write it there with --dry-run output=FOLDER/README.md."""


def run(argv: list[str]) -> int:
    """Run `ta push` with these arguments and return the exit status.

    Raises:
        UserError: one line for the person who typed them; always raised without --yes.
    """
    parser = Parser(
        "ta push",
        "ta push checkpoint=PATH repo=user/name [report=FOLDER] [private=true] [--dry-run | --yes]",
        "Upload a trained model to the Hugging Face Hub, with a model card.",
        EPILOG,
    )
    add = parser.add_argument
    add("--checkpoint", help="an exported folder, final.pt, or the folder of a run")
    add("--repo", help="user/name; created if it does not exist")
    add("--report", help="folder of `ta eval report=` (default: eval.json in the run's folder, if it is there)")
    add("--private", choices=["true", "false"], default="false", help="a private repository (default: %(default)s)")
    add("--license", help="as the Hub spells it: mit, apache-2.0, ... (default: what models and corpora allow)")
    add("--dtype", choices=DTYPES, default="float32", help="of a checkpoint's weights (default: %(default)s)")
    add("--encoder", help="the encoder's present folder, if it was moved")
    add("--decoder", help="the decoder's present folder, if it was moved")
    add("--dry-run", action="store_true", help="write the card, and upload nothing: needs no network and no token")
    add("--output", type=Path, help="with --dry-run, the file for the card, instead of standard output")
    add("--yes", action="store_true", help="upload")
    args = parser.read(argv)
    if not args.checkpoint or not args.repo:
        raise UserError("name a model and a place: ta push checkpoint=outputs/.../final.pt repo=user/name")
    if args.dry_run and args.yes:
        raise UserError("--dry-run uploads nothing, and --yes does; name one of them.")
    if args.output is not None and not args.dry_run:
        raise UserError(f"output={args.output} is for the card of --dry-run.")
    if args.output is not None:
        check_output(args.output, [], text=True)
    import torch

    from ..publish.push import check_repo, packed, upload

    check_repo(args.repo)
    options = (args.report, args.license, args.encoder, args.decoder, getattr(torch, args.dtype))
    with packed(args.checkpoint, args.repo, *options) as parcel:
        if args.dry_run and args.output is not None:
            write_output(args.output, parcel.made.encode())
        elif args.dry_run:
            print(parcel.made, end="")
        else:
            sizes = parcel.files | {"README.md": len(parcel.card.encode())}
            visible = "private" if args.private == "true" else "public"
            print(f"{args.repo} ({visible}), {sum(sizes.values()) / 1e6:,.1f} MB in {len(sizes)} files:")
            for name, size in sizes.items():
                print(f"  {size / 1e6:>12,.3f} MB  {name}")
            if parcel.left:
                print(f"Not made by `ta export`, and left out: {', '.join(parcel.left)}")
            if not args.yes:
                raise UserError("nothing was uploaded; add --yes to do it, or --dry-run to read the card.")
            print(upload(parcel, args.repo, args.private == "true"))
    return 0
