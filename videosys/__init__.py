"""videosys: prompts to videos with Open-Sora, Open-Sora-Plan and Latte, and caches that skip steps.

The public names are listed in `__init__.pyi` and imported on first use: `import videosys` needs no torch.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
