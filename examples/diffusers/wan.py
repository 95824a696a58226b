"""Wan 2.1 text to video with a cache: `python examples/diffusers/wan.py --tiny`.

The id of the weights, and the settings of the pipeline, are `videosys.diffusers.KNOWN["wan"]`.
"""

from shared import script

if __name__ == "__main__":
    script("wan")
