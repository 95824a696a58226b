"""Generate videos with any registered model family: python experiments/family.py NAME [options]

The options are those of the other scripts. A family of another package is found by its entry point
`videosys.families`. Without a YAML file (--config), the defaults of its config are used.
"""

from __future__ import annotations

from videosys import leave_at_interrupt

if __name__ == "__main__":
    leave_at_interrupt()

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from experiments import runner
from videosys import FAMILIES, exit_status


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    return exit_status(lambda: run(arguments), "")


def run(arguments: Sequence[str]) -> int:
    """Generate videos with the family named first, or print the help."""
    if not arguments or arguments[0].startswith("-"):
        print(f"{__doc__}\nNAME is one of: {', '.join(FAMILIES)}", file=sys.stderr)
        return 2
    return runner.main(runner.Study.of(arguments[0]), arguments[1:], __doc__)


if __name__ == "__main__":
    sys.exit(main())
