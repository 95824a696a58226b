"""Finds the best cache settings of a model: `python -m videosys.calibration`."""

import lazy_loader

# Imported when first used: the command line answers Ctrl-C before imports of seconds.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
