"""VinDr-CXR: DICOM and the label tables of its readers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from dpdt.cohort.synthetic.encode import write_dicom
from dpdt.cohort.synthetic.hospitals import Hospital, mix
from dpdt.cohort.synthetic.layouts.base import Pixels, hexadecimal, save_table
from dpdt.cohort.synthetic.picture import Picture

__all__ = ["LAYOUT"]

COLUMNS: Final = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Clavicle fracture",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Enlarged PA",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Lung cavity",
    "Lung cyst",
    "Mediastinal shift",
    "Nodule/Mass",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "Rib fracture",
    "Other lesion",
    "COPD",
    "Lung tumor",
    "Pneumonia",
    "Tuberculosis",
    "Other diseases",
    "No finding",
)


class Vindr:
    """DICOM, MONOCHROME1 and 2, 12 to 16 bits; three readers who do not always agree."""

    hospital = Hospital(
        code=1,
        patients=700,
        aspect=(1.2, 1.0),
        female=0.45,
        age_mean=48,
        age_sd=16,
        healthy=0.36,
        findings=mix(0.42, 0.36, 0.38, 0.34),
        others=("nodule", "fibrosis"),
        more_images=0.0,
        bedside=0.0,
        zoom=1.0,
        zoom_sd=0.03,
        rotation_sd=1.5,
        shift_sd=0.03,
        gamma=1.0,
        curve=3.0,
        blur=0.6,
        sharpen=0.8,
        noise=0.012,
        collimation=0.04,
        pneumonia_zone=(-0.5, -0.1),
        strength=(0.05, 0.8),
        marker="R",
    )

    LABELS: Final = {
        "Cardiomegaly": "cardiomegaly",
        "Pleural effusion": "pleural_effusion",
        "Pneumonia": "pneumonia",
        "Atelectasis": "atelectasis",
        "No finding": "healthy",
    }
    OTHERS: Final = {"nodule": "Nodule/Mass", "fibrosis": "Pulmonary fibrosis"}
    BITS: Final = (12, 14, 15, 16)

    def image_id(self, picture: Picture) -> str:
        """32 hexadecimal digits."""
        return hexadecimal(picture, 32)

    def relative(self, picture: Picture) -> str:
        """By split."""
        return f"{'test' if picture.test else 'train'}/{self.image_id(picture)}.dicom"

    def write(self, path: Path, image: Pixels, picture: Picture) -> None:
        """DICOM, with sex and age missing or strange in some."""
        random = picture.generator(2)
        sex = picture.sex[0].upper() if random.random() < 0.8 else str(random.choice(["", "O"]))
        age = f"{int(picture.age):03d}Y" if random.random() < 0.8 else str(random.choice(["", "000Y", "238Y"]))
        bits, inverted = int(random.choice(self.BITS)), bool(random.random() < 0.5)
        write_dicom(path, image, picture, bits=bits, inverted=inverted, sex=sex, age=age)

    def tables(self, root: Path, pictures: Sequence[Picture]) -> None:
        """Three readings an image in train, one consensus in test."""
        train = [row for p in pictures if not p.test for row in self._readings(p)]
        test = [{"image_id": self.image_id(p), **self._truth(p)} for p in pictures if p.test]
        save_table(
            root / "annotations/image_labels_train.csv",
            pd.DataFrame(train, columns=["image_id", "rad_id", *COLUMNS]),
        )
        consensus = pd.DataFrame(test, columns=["image_id", *COLUMNS]).rename(
            columns={"Other diseases": "Other disease"}
        )
        save_table(root / "annotations/image_labels_test.csv", consensus)

    def _truth(self, picture: Picture) -> dict[str, int]:
        row = dict.fromkeys(COLUMNS, 0)
        row.update({name: picture.labels[label] for name, label in self.LABELS.items()})
        if picture.other:
            row[self.OTHERS[picture.other]] = 1
        return row

    def _readings(self, picture: Picture) -> list[dict[str, Any]]:
        """Three rows; at most one reader differs in each label, so that the majority is the truth."""
        random = picture.generator(3)
        readers = random.choice(17, 3, replace=False) + 1
        rows = [
            {"image_id": self.image_id(picture), "rad_id": f"R{reader}", **self._truth(picture)} for reader in readers
        ]
        for name in self.LABELS:
            if random.random() < 0.15:
                row = rows[int(random.integers(3))]
                row[name] = int(not row[name])
        return rows


LAYOUT: Final = Vindr()
