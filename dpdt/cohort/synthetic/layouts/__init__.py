"""The raw layouts: where each hospital puts a radiograph, and its tables with their quirks.

One module a hospital, named as its kind. The readers in dpdt.cohort.hospitals must get the drawn labels back from them.
"""

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Final, cast

from dpdt.cohort.synthetic.hospitals import Hospital
from dpdt.cohort.synthetic.layouts.base import Layout
from dpdt.study.domain_kinds import DOMAIN_KINDS

__all__ = ["HOSPITALS", "LAYOUTS", "Layout"]

LAYOUTS: Final[Mapping[str, Layout]] = {
    kind: cast(Layout, import_module(f"{__name__}.{kind}").LAYOUT)
    for kind in DOMAIN_KINDS
    if find_spec(f"{__name__}.{kind}")
}
HOSPITALS: Final[Mapping[str, Hospital]] = {kind: layout.hospital for kind, layout in LAYOUTS.items()}
