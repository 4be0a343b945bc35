"""`ta serve checkpoint=PATH` and `ta demo checkpoint=PATH`: serve a model by an API, with a page to try it."""

from __future__ import annotations

import importlib.util
import os
import sys
import webbrowser

from ..config import check_device
from ..errors import UserError
from .infer import check_checkpoint
from .options import Parser, add_cuda_graph

KEY_VARIABLE = "TINY_AUDIO_API_KEY"
NEEDED = ("starlette", "uvicorn", "python_multipart", "prometheus_client")
EPILOG = """\
examples:
  ta serve checkpoint=outputs/transcription/checkpoints/final.pt
  ta serve checkpoint=my-recognizer port=9000 batch_size=16 max_seconds=3600 max_upload_mb=200
  TINY_AUDIO_API_KEY=$(openssl rand -hex 32) ta serve checkpoint=final.pt host=0.0.0.0
  ta demo checkpoint=final.pt                  opens the page in the browser

It answers POST /v1/audio/transcriptions as OpenAI's API does, GET /v1/models, /health, /metrics, and / with the page.
Ctrl+C finishes the accepted recordings, and stops."""


def run(argv: list[str], prog: str = "ta serve", opens_page: bool = False) -> int:
    """Run `ta serve` with these arguments until a signal stops it, and return the exit status.

    Args:
        argv: the arguments.
        prog: the command that was typed.
        opens_page: show the page in the browser.

    Raises:
        UserError: one line for the person who typed them.
    """
    parser = Parser(
        prog,
        f"{prog} checkpoint=PATH [port=N] [host=ADDRESS] [device=...] [batch_size=N] ...",
        "Serve a trained model on this machine, with an API that OpenAI's clients understand, and a page.",
        EPILOG,
    )
    add = parser.add_argument
    add("--checkpoint", help="final.pt, the folder of a run, an exported folder, or user/repository on the Hub")
    add("--host", default="127.0.0.1", help="address to listen on; any other needs a key (default: %(default)s)")
    add("--port", type=int, default=8000, help="0: any that is free (default: %(default)s)")
    add("--device", default="auto", help="auto, cuda, cuda:1, mps, cpu (default: %(default)s)")
    add("--batch-size", type=int, default=8, help="pieces of recordings at once (default: %(default)s)")
    add("--max-upload-mb", type=float, default=25.0, help="largest recording, in MB (default: %(default)g)")
    add("--max-seconds", type=float, default=600.0, help="longest recording (default: %(default)g)")
    add("--queue", type=int, default=64, help="recordings in work or waiting (default: %(default)s)")
    add("--timeout-seconds", type=float, default=300.0, help="for an upload, and the work on it (default: %(default)g)")
    add("--api-key", help=f"the key of all clients; other users see it in the list of processes: better {KEY_VARIABLE}")
    add("--encoder", help="the encoder's present folder, if it was moved")
    add("--decoder", help="the decoder's present folder, if it was moved")
    add_cuda_graph(parser)
    args = parser.read(argv)
    if not args.checkpoint:
        raise UserError(f"name a checkpoint: {prog} checkpoint=outputs/.../final.pt")
    check_device("device", args.device)
    check_checkpoint(args.checkpoint)
    check_installed(prog)
    from ..serve.settings import ServeSettings

    settings = ServeSettings(
        args.host,
        args.port,
        args.batch_size,
        args.max_upload_mb,
        args.max_seconds,
        args.queue,
        args.timeout_seconds,
        args.api_key or os.environ.get(KEY_VARIABLE) or None,
    )
    from ..inference import Decoding, Recognizer
    from ..serve.server import Server, name_of

    name = name_of(args.checkpoint)

    def ready(address: str) -> None:
        print(what_to_type(name, address, settings.api_key is not None), flush=True)
        if opens_page and not webbrowser.open(address):
            print(f"{prog}: no browser was found here; open {address} yourself.", file=sys.stderr)

    decoding = Decoding(cuda_graph=args.cuda_graph == "true")
    recognizer = Recognizer(args.checkpoint, args.device, args.encoder, args.decoder, decoding)
    Server(recognizer, name, settings, ready).serve_until_signaled()
    print(f"{prog}: finished the accepted recordings, and stopped.", file=sys.stderr)
    return 0


def check_installed(prog: str) -> None:
    """Refuse to start if a library is missing.

    Raises:
        UserError: one is missing; says what to install.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"{prog} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            "pip install 'tiny-audio[serve]' (in a clone: pip install -e '.[serve]')."
        )


def what_to_type(name: str, address: str, has_key: bool) -> str:
    """Return what is printed when requests are answered."""
    header = f' -H "Authorization: Bearer ${KEY_VARIABLE}"' if has_key else ""
    key = f'os.environ["{KEY_VARIABLE}"]' if has_key else '"none"'
    return (
        f"Serving {name} at {address} (the page to try it on). Ctrl+C stops it.\n"
        f"  curl {address}/v1/audio/transcriptions{header} -F model={name} -F file=@test.wav\n"
        f'  OpenAI(base_url="{address}/v1", api_key={key}).audio.transcriptions.create(model="{name}", '
        'file=open("test.wav", "rb"))'
    )
