"""Differentially private domain transfer for chest radiographs."""

from importlib.metadata import version

__version__ = version("dpdt")
