"""Which settings of a cache are best for a model, found by running it: `python -m videosys.calibration`."""
