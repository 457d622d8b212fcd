"""The raw layouts: where each hospital puts a radiograph, and its tables with their quirks.

The readers in dpdt.cohort.hospitals must get the drawn labels back from them.
"""

from collections.abc import Mapping
from typing import Final

from dpdt.cohort.synthetic.layouts.base import Layout
from dpdt.cohort.synthetic.layouts.chestxray14 import ChestXray14
from dpdt.cohort.synthetic.layouts.chexpert import CheXpert
from dpdt.cohort.synthetic.layouts.mimic import Mimic
from dpdt.cohort.synthetic.layouts.padchest import PadChest
from dpdt.cohort.synthetic.layouts.uka import Uka
from dpdt.cohort.synthetic.layouts.vindr import Vindr

__all__ = ["LAYOUTS", "Layout"]

LAYOUTS: Final[Mapping[str, Layout]] = {
    "vindr": Vindr(),
    "chestxray14": ChestXray14(),
    "chexpert": CheXpert(),
    "uka": Uka(),
    "padchest": PadChest(),
    "mimic": Mimic(),
}
