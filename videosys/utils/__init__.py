"""Utilities that do not depend on models: checkpoints, video files, names, seeds, logs."""
