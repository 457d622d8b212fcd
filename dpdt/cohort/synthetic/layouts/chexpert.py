"""CheXpert: a JPEG tree and one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from dpdt.cohort.synthetic.encode import write_jpeg
from dpdt.cohort.synthetic.hospitals import Hospital, mix
from dpdt.cohort.synthetic.layouts.base import Pixels, save_table
from dpdt.cohort.synthetic.layouts.labeller import labeller_row
from dpdt.cohort.synthetic.picture import Picture

__all__ = ["LAYOUT"]


class CheXpert:
    """The "small" release's JPEG tree; frontal and lateral, 1, 0, -1 and blank."""

    hospital = Hospital(
        code=3,
        patients=550,
        aspect=(0.95, 1.15),
        female=0.41,
        age_mean=61,
        age_sd=18,
        healthy=0.34,
        findings=mix(0.4, 0.48, 0.32, 0.4),
        others=("nodule", "device", "congestion"),
        more_images=0.35,
        bedside=0.85,
        zoom=1.28,
        zoom_sd=0.06,
        rotation_sd=4.0,
        shift_sd=0.06,
        gamma=1.2,
        curve=3.0,
        blur=0.5,
        sharpen=1.5,
        noise=0.02,
        collimation=0.02,
        companions={"cardiomegaly": ("wires", 0.6), "pneumonia": ("tube", 0.6)},
        strength=(0.1, 0.9),
        marker="L",
        bedside_text="AP SUPINE",
        quirks={"lateral": 0.1, "uncertain": 0.05},
    )

    RELEASE: Final = "CheXpert-v1.0-small"

    def image_id(self, picture: Picture) -> str:
        """Patient, study and view."""
        side = "lateral" if picture.quirk == "lateral" else "frontal"
        return f"patient{picture.patient + 1:05d}/study{picture.number + 1}/view1_{side}"

    def relative(self, picture: Picture) -> str:
        """As the column Path has it."""
        return f"{self.RELEASE}/train/{self.image_id(picture)}.jpg"

    def write(self, path: Path, image: Pixels, picture: Picture) -> None:
        """JPEG."""
        write_jpeg(path, image)

    def tables(self, root: Path, pictures: Sequence[Picture]) -> None:
        """`train.csv` beside `train/`."""
        rows = []
        for p in pictures:
            lateral = p.quirk == "lateral"
            sex = "Unknown" if p.patient == 5 else p.sex.capitalize()
            side, projection = ("Lateral", None) if lateral else ("Frontal", p.view)
            rows.append(
                {
                    "Path": self.relative(p),
                    "Sex": sex,
                    "Age": int(min(p.age, 90)),
                    "Frontal/Lateral": side,
                    "AP/PA": projection,
                    **labeller_row(p),
                }
            )
        save_table(root / self.RELEASE / "train.csv", pd.DataFrame(rows))


LAYOUT: Final = CheXpert()
