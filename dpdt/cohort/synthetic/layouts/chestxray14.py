"""ChestX-ray14: PNGs, one table, two lists."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from dpdt.base.files import write_text
from dpdt.cohort.synthetic.encode import write_png
from dpdt.cohort.synthetic.hospitals import Hospital, mix
from dpdt.cohort.synthetic.layouts.base import Pixels, save_table
from dpdt.cohort.synthetic.picture import Picture

__all__ = ["LAYOUT"]


class ChestXray14:
    """8-bit PNG in `images/`, one table, two lists; some images are in neither."""

    hospital = Hospital(
        code=2,
        patients=550,
        aspect=(1.05, 1.05),
        female=0.44,
        age_mean=47,
        age_sd=17,
        healthy=0.32,
        findings=mix(0.36, 0.44, 0.34, 0.42),
        others=("nodule", "fibrosis"),
        more_images=0.35,
        bedside=0.55,
        zoom=1.1,
        zoom_sd=0.05,
        rotation_sd=3.0,
        shift_sd=0.05,
        gamma=0.85,
        curve=1.5,
        blur=1.0,
        sharpen=0.0,
        noise=0.04,
        collimation=0.08,
        companions={"pleural_effusion": ("drain", 0.6)},
        strength=(0.1, 0.9),
        marker="L",
        bedside_text="PORTABLE",
        quirks={"unlisted": 0.01},
    )

    NAMES: Final = {
        "cardiomegaly": "Cardiomegaly",
        "pleural_effusion": "Effusion",
        "pneumonia": "Pneumonia",
        "atelectasis": "Atelectasis",
        "nodule": "Nodule",
        "fibrosis": "Fibrosis",
    }

    def image_id(self, picture: Picture) -> str:
        """Patient and follow-up number, as NIH names files."""
        return f"{picture.patient + 1:08d}_{picture.number:03d}.png"

    def relative(self, picture: Picture) -> str:
        """All in one folder."""
        return f"images/{self.image_id(picture)}"

    def write(self, path: Path, image: Pixels, picture: Picture) -> None:
        """PNG of 8 bits."""
        write_png(path, image, bits=8)

    def tables(self, root: Path, pictures: Sequence[Picture]) -> None:
        """One table with findings joined by bars, and the two official lists."""
        rows = []
        for p in pictures:
            names = [self.NAMES[name] for name in (*p.findings, *([p.other] if p.other else []))]
            age = 414 if p.generator(2).random() < 0.01 else int(p.age)
            finding = "|".join(sorted(names)) or "No Finding"
            sex = p.sex[0].upper()
            rows.append(
                (self.image_id(p), finding, p.number, p.patient + 1, age, sex, p.view, 2500, 2048, 0.168, 0.168)
            )
        columns = [
            "Image Index",
            "Finding Labels",
            "Follow-up #",
            "Patient ID",
            "Patient Age",
            "Patient Gender",
            "View Position",
            "OriginalImage[Width",
            "Height]",
            "OriginalImagePixelSpacing[x",
            "y]",
        ]
        save_table(root / "Data_Entry_2017_v2020.csv", pd.DataFrame(rows, columns=columns))
        listed = [p for p in pictures if p.quirk != "unlisted"]
        for name, test in (("train_val_list.txt", False), ("test_list.txt", True)):
            write_text(root / name, "\n".join(self.image_id(p) for p in listed if p.test is test))


LAYOUT: Final = ChestXray14()
