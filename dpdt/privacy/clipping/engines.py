"""The ways to clip: dpdt's book-keeping (the default), and Opacus' hooks and ghost clipping.

All give the same clipped sum up to rounding; `dpdt.privacy.clipping.gradient_sum` says what it is for. Opacus gives the
gradient (hooks) or its norm (ghost) of each image. Norms are added up in float64: a float32 norm of a long row comes
out low, and the sum could pass the bound. A new one is a module of its name with a class `<Name>Clipping`, and a row in
`dpdt.study.clipping_engines`.
"""

from importlib import import_module
from typing import Final, cast

from dpdt.privacy.clipping.gradient_sum import ClippedGradientSum, GradientSum
from dpdt.study.clipping_engines import CLIPPING_ENGINES

__all__ = ["CLIPPING", "ClippedGradientSum", "GradientSum"]


def _engine(name: str) -> type[ClippedGradientSum]:
    module = import_module(f"dpdt.privacy.clipping.{name}")
    return cast(type[ClippedGradientSum], getattr(module, f"{name.capitalize()}Clipping"))


CLIPPING: Final = {name: _engine(name) for name in CLIPPING_ENGINES}
