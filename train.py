"""The program of W&B sweeps (`wandb sweep sweep.yaml`) and of `accelerate launch`: the same as `ta train`."""

import sys

from tiny_audio.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
