"""Stages as tasks, and tasks as jobs."""
