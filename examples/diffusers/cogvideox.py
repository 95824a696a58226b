"""CogVideoX with a cache: `python examples/diffusers/cogvideox.py --tiny`.

The id of the weights, and the settings of the pipeline, are `videosys.diffusers.KNOWN["cogvideox"]`.
"""

from shared import script

if __name__ == "__main__":
    script("cogvideox")
