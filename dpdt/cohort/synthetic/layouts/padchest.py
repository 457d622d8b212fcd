"""PadChest: 16-bit PNGs and one wide table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from dpdt.cohort.synthetic.encode import write_png
from dpdt.cohort.synthetic.hospitals import Hospital, mix
from dpdt.cohort.synthetic.layouts.base import Pixels, digits, hexadecimal, save_table
from dpdt.cohort.synthetic.picture import Picture

__all__ = ["LAYOUT"]


class PadChest:
    """16-bit PNG with 12 bits used, in numbered folders; one wide table with lists as text and very long ids."""

    hospital = Hospital(
        code=5,
        patients=550,
        aspect=(1.15, 1.05),
        female=0.5,
        age_mean=60,
        age_sd=18,
        healthy=0.38,
        findings=mix(0.4, 0.38, 0.36, 0.4),
        others=("nodule", "fibrosis", "device"),
        more_images=0.3,
        bedside=0.3,
        zoom=1.0,
        zoom_sd=0.04,
        rotation_sd=2.0,
        shift_sd=0.04,
        gamma=1.5,
        curve=2.5,
        blur=0.7,
        sharpen=0.6,
        noise=0.035,
        collimation=0.06,
        lobar=0.5,
        companions={"atelectasis": ("line", 0.6)},
        strength=(0.05, 0.8),
        supine=0.4,
        pneumonia_zone=(-0.45, 0.4),
        marker="D",
        bedside_text="SUPINO",
        quirks={"lateral": 0.05, "unlabelled": 0.01, "exclude": 0.01, "suboptimal study": 0.01},
    )

    NAMES: Final[Mapping[str, tuple[str, ...]]] = {
        "cardiomegaly": ("cardiomegaly",),
        "pleural_effusion": ("pleural effusion", " pleural effusion ", "loculated pleural effusion"),
        "pneumonia": ("pneumonia", "atypical pneumonia"),
        "atelectasis": ("atelectasis", "laminar atelectasis", " laminar atelectasis", "atelectasis basal"),
        "nodule": ("nodule",),
        "fibrosis": ("pulmonary fibrosis",),
        "device": ("pacemaker",),
    }
    OTHER_VIEWS: Final = ("L", "L", "L", "COSTAL", "UNK")
    DECOYS: Final = ("", "unchanged", "scoliosis", "pericardial effusion", "costophrenic angle blunting")

    def image_id(self, picture: Picture) -> str:
        """Study number of 39 digits and a suffix."""
        return f"{digits(picture, f'study{picture.number}', 39)}_{hexadecimal(picture, 6)}.png"

    def relative(self, picture: Picture) -> str:
        """In a numbered folder."""
        return f"{picture.patient % 3}/{self.image_id(picture)}"

    def write(self, path: Path, image: Pixels, picture: Picture) -> None:
        """PNG of 16 bits, 12 of them used."""
        write_png(path, image, bits=12)

    def tables(self, root: Path, pictures: Sequence[Picture]) -> None:
        """The one table."""
        rows = []
        for number, p in enumerate(pictures):
            view = "AP_horizontal" if p.view == "AP" else "PA"
            if p.quirk == "lateral":
                view = str(p.generator(4).choice(self.OTHER_VIEWS))
            odd = p.generator(2).random()
            sex = "O" if odd < 0.01 else None if odd > 0.99 else p.sex[0].upper()
            rows.append(
                {
                    "": number,
                    "ImageID": self.image_id(p),
                    "ImageDir": p.patient % 3,
                    "StudyDate_DICOM": f"201{p.number}0614",
                    "StudyID": digits(p, f"study{p.number}", 39),
                    "PatientID": digits(p, "patient", 36),
                    "PatientBirth": f"{2010 + p.number - int(p.age)}.0",
                    "PatientSex_DICOM": sex,
                    "ViewPosition_DICOM": "POSTEROANTERIOR",
                    "Projection": view,
                    "MethodLabel": "Physician",
                    "Labels": self._labels(p),
                }
            )
        save_table(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", pd.DataFrame(rows))

    def _labels(self, picture: Picture) -> str | None:
        random = picture.generator(3)
        if picture.quirk == "unlabelled":
            return None
        shown = [*picture.findings, *([picture.other] if picture.other else [])]
        names = [str(random.choice(self.NAMES[name])) for name in shown] or ["normal"]
        if shown and random.random() < 0.3:
            names.append(str(random.choice(self.DECOYS)))
        if picture.findings and random.random() < 0.02:
            names.append(" normal")  # the finding wins
        if picture.quirk in ("exclude", "suboptimal study"):
            names.append(picture.quirk)
        return str(names)


LAYOUT: Final = PadChest()
