"""Train the bundled tiny checkpoints: `python -m eval.training.train STAGE --out FOLDER [...]`.

For Open-Sora, run `vae`, then `latents`, which encodes clips with the exported autoencoder, then
`transformer`. For the others, run `latte_vae` or `causal_vae`, then `latents --model NAME` and `noise --model
NAME`. After an interruption, the same command resumes.
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
    parser.add_argument("options", nargs=argparse.REMAINDER, help="options of the stage, see STAGE --help")
    args = parser.parse_args(argv)
    return exit_status(
        lambda: importlib.import_module(STAGES[args.stage]).main(args.options),
        "interrupted: run the same command again to continue",
    )


if __name__ == "__main__":
    sys.exit(main())
