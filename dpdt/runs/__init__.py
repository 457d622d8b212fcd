"""A run folder: config, state, log, checkpoints."""
