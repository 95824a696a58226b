"""HunyuanVideo with a cache: `python examples/diffusers/hunyuan_video.py --tiny`.

The id of the weights, and the settings of the pipeline, are `videosys.diffusers.KNOWN["hunyuan_video"]`.
"""

from shared import script

if __name__ == "__main__":
    script("hunyuan_video")
