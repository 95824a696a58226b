"""`python -m videosys` is the command `videosys`."""

from __future__ import annotations

import sys

from videosys.cli import main

if __name__ == "__main__":
    sys.exit(main())
