"""Trains the bundled tiny checkpoints: `python -m eval.training.train STAGE --out FOLDER [...]`.

For Open-Sora `vae` comes first, `latents` encodes clips with its export, and `transformer` trains on them;
for the others `latte_vae` or `causal_vae`, `latents --model NAME` and `noise --model NAME`. A killed run goes
on where it stopped when it is started again with the same arguments.
"""

from __future__ import annotations

from videosys import leave_at_interrupt

if __name__ == "__main__":
    leave_at_interrupt()

import argparse
import importlib
import sys
from collections.abc import Sequence

from videosys import CommandParser, exit_status

STAGES = {
    "vae": "eval.training.train_vae",
    "latents": "eval.training.latents",
    "transformer": "eval.training.train_transformer",
    "causal_vae": "eval.training.train_causal_vae",
    "latte_vae": "eval.training.latte_vae",
    "noise": "eval.training.train_noise",
    "wan": "eval.training.train_wan",
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = CommandParser(prog="python -m eval.training.train", description=__doc__)
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("options", nargs=argparse.REMAINDER, help="options of the stage: see STAGE --help")
    args = parser.parse_args(argv)
    return exit_status(
        lambda: importlib.import_module(STAGES[args.stage]).main(args.options),
        "interrupted: run the same command again to continue",
    )


if __name__ == "__main__":
    sys.exit(main())
