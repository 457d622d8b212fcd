"""UKA-CXR: JPEGs and a graded master list."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from dpdt.cohort.synthetic.encode import write_jpeg
from dpdt.cohort.synthetic.hospitals import Hospital, mix
from dpdt.cohort.synthetic.layouts.base import Pixels, digits, save_table
from dpdt.cohort.synthetic.picture import Picture

__all__ = ["LAYOUT"]


class Uka:
    """JPEG in sub-folders, a master list with grades a side."""

    hospital = Hospital(
        code=4,
        patients=550,
        aspect=(1.0, 1.2),
        female=0.37,
        age_mean=67,
        age_sd=13,
        healthy=0.36,
        findings=mix(0.5, 0.4, 0.38, 0.38),
        others=("congestion", "device"),
        more_images=0.35,
        bedside=1.0,
        zoom=0.97,
        zoom_sd=0.04,
        rotation_sd=3.0,
        shift_sd=0.05,
        gamma=0.8,
        curve=2.5,
        blur=0.8,
        sharpen=0.0,
        noise=0.035,
        collimation=0.06,
        strength=(0.35, 1.0),
        marker="",
        supine=0.5,
        lobar=0.6,
        companions={"pneumonia": ("electrodes", 0.6)},
        quirks={},
    )

    SIDED: Final = {
        "pleural_effusion": "pleural_effusion",
        "pneumonia": "pneumonic_infiltrates",
        "atelectasis": "atelectasis",
    }

    def image_id(self, picture: Picture) -> str:
        """Ten digits."""
        return f"{digits(picture, 'image', 9)}{picture.number}"

    def relative(self, picture: Picture) -> str:
        """In a sub-folder."""
        return f"images/{self._subset(picture)}/{self.image_id(picture)}.jpg"

    def _subset(self, picture: Picture) -> str:
        return f"subset{picture.patient // 200 + 1}"

    def write(self, path: Path, image: Pixels, picture: Picture) -> None:
        """JPEG."""
        write_jpeg(path, image)

    def tables(self, root: Path, pictures: Sequence[Picture]) -> None:
        """The master list."""
        rows = [
            {
                "image_id": self.image_id(p),
                "subset": self._subset(p),
                "split": "test" if p.test else "train",
                "subject_id": digits(p, "patient", 10),
                "birth_date": f"{2016 - int(p.age)}-01-15",
                "examination_date": f"2016-0{p.number + 2}-20",
                "patient_sex": p.sex[0].upper(),
                "view": "AP",
                **self._grades(p),
            }
            for p in pictures
        ]
        save_table(root / "UKA_master_list.csv", pd.DataFrame(rows))

    def _grades(self, picture: Picture) -> dict[str, int]:
        """3 or 4 for what is there; 2 on both sides of some findings that are not, if the image is not healthy."""
        random = picture.generator(3)

        def grade(strength: float | None) -> int:
            if strength is not None:
                return 4 if strength > 0.7 else 3
            return int(random.choice([1, 2])) if not picture.labels["healthy"] and random.random() < 0.3 else 1

        grades = {"cardiomegaly": grade(picture.findings.get("cardiomegaly"))}
        grades["congestion"] = 3 if picture.other == "congestion" else grade(None)
        for label, column in self.SIDED.items():
            sides = [grade(picture.findings.get(label)), grade(None)]
            order = random.permutation(2)
            grades[f"{column}_right"], grades[f"{column}_left"] = sides[order[0]], sides[order[1]]
        if picture.other == "device":
            grades["congestion"] = max(2, grades["congestion"])
        return grades


LAYOUT: Final = Uka()
