"""Differentially private domain transfer for radiographs.

What the command line does, from Python: `load_study`, `Cohort`, `Shards` (a `torch.utils.data.Dataset`), `train`,
`evaluate` and `results`. They are imported when they are first used, so that `import dpdt` stays light.
"""

from typing import Any

__all__ = ["Cohort", "Shards", "Study", "Trained", "__version__", "evaluate", "load_study", "results", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("dpdt.base.machine" if name == "__version__" else "dpdt.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
