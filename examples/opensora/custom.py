"""A config in Python: python examples/opensora/sample.py --config examples/opensora/custom.py

The file is executed. This one sets a custom threshold, and the paper's variant without rescaling.
"""

from videosys import OpenSoraConfig, TeaCacheConfig

config = OpenSoraConfig(
    transformer="bundled:opensora/transformer",
    vae="bundled:opensora/vae",
    text_encoder="bundled:opensora",
    height=64,
    width=64,
    num_frames=34,
    fps=12,
    guidance_scale=4.0,
    cache=TeaCacheConfig(threshold=0.15, coefficients=(1.0, 0.0)),
)
