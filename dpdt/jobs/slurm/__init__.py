"""Slurm: send, queue, wait, cancel."""
