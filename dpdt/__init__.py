"""Differentially private domain transfer for chest radiographs.

What the command line does, from Python: `load_study`, `Cohort`, `Shards` (a `torch.utils.data.Dataset`), `train` and
`evaluate`. They are imported when they are first used, so that `import dpdt` stays light.
"""

import sys
import types
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dpdt.api import Cohort, Shards, Trained, evaluate, train
    from dpdt.study import Study, load_study

__all__ = ["Cohort", "Shards", "Study", "Trained", "__version__", "evaluate", "load_study", "train"]

__version__ = version("dpdt")

_HOMES = {"Study": "dpdt.study", "load_study": "dpdt.study"}
_PUBLIC = frozenset(__all__) - {"__version__"}


class _Package(types.ModuleType):
    """`dpdt.train` is the function, although there is a module of that name (`from dpdt.train import …` finds it)."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _PUBLIC and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_HOMES.get(name, "dpdt.api")), name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_PUBLIC})


sys.modules[__name__].__class__ = _Package
