"""Model bundles: one file that carries a model out of a hospital, and nothing of its patients but what it learned.

`container` is the file, `manifest` what it says, `export` writes one, `model` opens one, `apply` uses it.
"""
