"""Finds the best cache settings of a model: `python -m videosys.calibration`."""

import lazy_loader

# Submodules are imported when first used, so that the command line responds to Ctrl-C during slow imports.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
