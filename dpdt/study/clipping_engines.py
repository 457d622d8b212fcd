"""The ways to clip that a study file may name, and what must be known of each before torch is loaded."""

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

__all__ = ["CLIPPING_ENGINES", "ClippingEngine", "ClippingName"]


class ClippingEngine(NamedTuple):
    """What an engine can do, and what it asks for.

    Attributes:
        several_images: Whether it finds the norm of the mean gradient of a unit's several images.
        by_layer: Whether it can clip each layer's gradient by itself.
        bfloat16: Whether its bound holds in bfloat16.
        keeps_gradients: Whether it keeps the whole gradient of every image of a physical batch in memory.
        own_rounding: Whether rounding moves its sum by more than that of the others: it then has a row of its name in
            `dpdt.privacy.rounding.PER_IMAGE`, and all physical batches of a DP run have one size.
    """

    several_images: bool = True
    by_layer: bool = True
    bfloat16: bool = True
    keeps_gradients: bool = False
    own_rounding: bool = False


CLIPPING_ENGINES: Final = {
    "bookkeeping": ClippingEngine(),
    "hooks": ClippingEngine(keeps_gradients=True),
    "ghost": ClippingEngine(several_images=False, by_layer=False, bfloat16=False, own_rounding=True),
}
"""Each has a module of its name in `dpdt.privacy.clipping`, with a class `<Name>Clipping`."""

if TYPE_CHECKING:
    ClippingName = str
else:
    ClippingName = Literal[tuple(CLIPPING_ENGINES)]
