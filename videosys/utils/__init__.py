"""Small tools that know nothing of models: checkpoints, video files, names, seeds, logs."""
