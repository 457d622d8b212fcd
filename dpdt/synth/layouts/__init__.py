"""The raw layouts: where each hospital puts a radiograph, and its tables with their quirks.

The readers in dpdt.domains must get the drawn labels back from them.
"""

from collections.abc import Mapping
from typing import Final

from dpdt.synth.layouts.base import Layout
from dpdt.synth.layouts.chestxray14 import ChestXray14
from dpdt.synth.layouts.chexpert import CheXpert
from dpdt.synth.layouts.mimic import Mimic
from dpdt.synth.layouts.padchest import PadChest
from dpdt.synth.layouts.uka import Uka
from dpdt.synth.layouts.vindr import Vindr

__all__ = ["LAYOUTS", "Layout"]

LAYOUTS: Final[Mapping[str, Layout]] = {
    "vindr": Vindr(),
    "chestxray14": ChestXray14(),
    "chexpert": CheXpert(),
    "uka": Uka(),
    "padchest": PadChest(),
    "mimic": Mimic(),
}
