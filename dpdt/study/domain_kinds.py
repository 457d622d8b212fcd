"""The file layouts that a domain may have: the institutions, and a list described in the study file."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

__all__ = ["DOMAIN_KINDS", "DomainKind", "Layout"]


class Layout(NamedTuple):
    """How an institution publishes its data, for a new study file.

    Attributes:
        root: A folder where it may lie.
        content: What is in the folder.
        public: Whether it is for pretraining, unless the study file says something else.
        columns: Other columns that groups may be made of: their names, and those in its lists.
    """

    root: str
    content: str
    public: bool = False
    columns: Mapping[str, str] = MappingProxyType({})


DOMAIN_KINDS: Final = {
    "vindr": Layout("/data/vindr-cxr", "annotations/, train/, test/ with DICOM files"),
    "chestxray14": Layout(
        "/data/ChestX-ray14",
        "Data_Entry_2017_v2020.csv, train_val_list.txt, test_list.txt, images_001/ …",
    ),
    "chexpert": Layout(
        "/data/CheXpert-v1.0",
        "train.csv, valid.csv, train/patient00001/ …",
        columns={"race": "race", "ethnicity": "ethnicity", "insurance": "insurance_type", "bmi": "recent_bmi"},
    ),
    "uka": Layout("/data/uka", "a graded master list and its images"),
    "padchest": Layout(
        "/data/PadChest",
        "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv, 0/ … 54/",
        columns={"manufacturer": "Manufacturer_DICOM"},
    ),
    "mimic": Layout(
        "/data/mimic-cxr-jpg",
        "public pretraining: three .csv.gz files and files/p10/ …",
        public=True,
        columns={"race": "race", "insurance": "insurance"},
    ),
    "table": Layout("/data/own", "your own list and images; docs/own-hospital.md has a worked example"),
}
"""Each has a reader of its name in `dpdt.cohort.hospitals`. `table` is a hospital's own list, described by
`[domains.<name>.table]`; it comes last."""

if TYPE_CHECKING:
    DomainKind = str
else:
    DomainKind = Literal[tuple(DOMAIN_KINDS)]
