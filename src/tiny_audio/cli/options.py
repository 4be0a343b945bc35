"""Options in both spellings, `key=value` and `--key value`, for the commands that have few options."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from typing import NoReturn

from ..config import MAX_BEAMS, SearchChanges
from ..errors import UserError


class Parser(argparse.ArgumentParser):
    """Reads the arguments of a command; a mistake in them is a `UserError` of one line."""

    def __init__(self, prog: str, usage: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """See `argparse.ArgumentParser.error`."""
        raise UserError(f"{message}; `{self.prog} --help` says more.")

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse arguments; any option with a value can be written `key=value`."""
        names = [
            option.removeprefix("--").replace("-", "[_-]")
            for action in self._actions
            for option in action.option_strings
            if action.nargs != 0 and option.startswith("--")
        ]
        typed = re.compile(rf"(?:--)?({'|'.join(names)})=(.*)", re.DOTALL)
        tokens = []
        for token in argv:
            match = typed.fullmatch(token)
            tokens.append(f"--{match[1].replace('_', '-')}={match[2]}" if match else token)
        self._refuse_twice([token.partition("=")[0] for token in tokens])
        return self.parse_intermixed_args(tokens)

    def _refuse_twice(self, given: Sequence[str]) -> None:
        """Refuse an option that is given twice, unless it makes a list: only the last value would be used."""
        for action in self._actions:
            if action.nargs != 0 and not isinstance(action, argparse._AppendAction):
                for option in action.option_strings:
                    if given.count(option) > 1:
                        self.error(f"{option.removeprefix('--').replace('-', '_')} is given twice")


def add_cuda_graph(parser: Parser) -> None:
    """Add the option that decodes with a CUDA graph."""
    parser.add_argument(
        "--cuda-graph",
        choices=["true", "false"],
        default="false",
        help="on a CUDA device: launch each token's work as one graph, which takes the host less time "
        "(default: %(default)s)",
    )


def add_search(parser: Parser) -> None:
    """Add the options that say how transcripts are written."""
    parser.add_argument(
        "--beams",
        type=int,
        help="hypotheses of the beam search by decoder and CTC head together; 1: the decoder alone, greedily "
        "(default: the checkpoint's)",
    )
    parser.add_argument(
        "--ctc-weight",
        type=float,
        help="weight of the CTC score, with 2 beams or more (default: the checkpoint's)",
    )
    parser.add_argument(
        "--prior-weight",
        type=float,
        help="how much less CTC favors frequent word pieces, with 2 beams or more (default: the checkpoint's)",
    )
    parser.add_argument(
        "--max-nats",
        type=float,
        help="with 2 beams or more: nothing is written if a word piece costs CTC more nats on average; 100: all is "
        "written (default: the checkpoint's)",
    )


def search_of(args: argparse.Namespace) -> SearchChanges:
    """Return what `add_search`'s options say."""
    return SearchChanges(args.beams, args.ctc_weight, args.prior_weight, args.max_nats)


def check_search(args: argparse.Namespace) -> None:
    """Refuse numbers that make no sense.

    Raises:
        UserError: a number is out of range; names the option.
    """
    if args.beams is not None and not 1 <= args.beams <= MAX_BEAMS:
        raise UserError(f"beams must be 1 to {MAX_BEAMS}, got {args.beams}.")
    if args.ctc_weight is not None and not 0 < args.ctc_weight < math.inf:
        raise UserError(f"ctc_weight must be a number above 0, got {args.ctc_weight:g}.")
    if args.prior_weight is not None and not 0 <= args.prior_weight < math.inf:
        raise UserError(f"prior_weight must be at least 0, got {args.prior_weight:g}.")
    if args.max_nats is not None and not 0 < args.max_nats < math.inf:
        raise UserError(f"max_nats must be a number above 0, got {args.max_nats:g}.")
