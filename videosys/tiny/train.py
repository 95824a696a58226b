"""Trains the bundled tiny checkpoints: `python -m videosys.tiny.train STAGE --out FOLDER [...]`.

For Open-Sora `vae` comes first, `latents` encodes clips with its export, and `transformer` trains on them;
for the others `latte_vae` or `causal_vae`, `latents --model NAME` and `noise --model NAME`. A killed run goes
on where it stopped when it is started again with the same arguments.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

STAGES = {
    "vae": "videosys.tiny.train_vae",
    "latents": "videosys.tiny.latents",
    "transformer": "videosys.tiny.train_transformer",
    "causal_vae": "videosys.tiny.train_causal_vae",
    "latte_vae": "videosys.tiny.latte_vae",
    "noise": "videosys.tiny.train_noise",
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m videosys.tiny.train", description=__doc__)
    parser.add_argument("stage", choices=list(STAGES))
    parser.add_argument("options", nargs=argparse.REMAINDER, help="options of the stage: see STAGE --help")
    args = parser.parse_args(argv)
    try:
        return importlib.import_module(STAGES[args.stage]).main(args.options)
    except ValueError as error:
        print("error:", error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
