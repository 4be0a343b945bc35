"""`python -m tiny_audio.cli`: the same as `ta`, for launchers that start modules."""

import sys

from . import main

sys.exit(main())
