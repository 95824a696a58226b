"""`videosys ui --config FILE` is `videosys serve --open --config FILE`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from videosys.serve.__main__ import main as serve


def main(argv: Sequence[str] | None = None) -> int:
    """Serve, and open the page."""
    return serve(["--open", *(sys.argv[1:] if argv is None else argv)], "ui")


if __name__ == "__main__":
    sys.exit(main())
