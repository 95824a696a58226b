"""LTX-Video with a cache: `python examples/diffusers/ltx.py --tiny`.

The id of the weights, and the settings of the pipeline, are `videosys.diffusers.KNOWN["ltx"]`.
"""

from shared import script

if __name__ == "__main__":
    script("ltx")
