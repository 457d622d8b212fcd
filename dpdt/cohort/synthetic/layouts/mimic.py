"""MIMIC-CXR-JPG: a JPEG tree and gzipped tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd

from dpdt.cohort.synthetic.encode import write_jpeg
from dpdt.cohort.synthetic.hospitals import Hospital, mix
from dpdt.cohort.synthetic.layouts.base import Pixels, hexadecimal, save_table
from dpdt.cohort.synthetic.layouts.labeller import labeller_row
from dpdt.cohort.synthetic.picture import Picture

__all__ = ["LAYOUT"]


class Mimic:
    """JPEG tree below `files/`, three gzipped tables and a patients table; one study has no labels."""

    hospital = Hospital(
        code=6,
        patients=1000,
        aspect=(1.1, 1.0),
        female=0.48,
        age_mean=62,
        age_sd=17,
        healthy=0.34,
        findings=mix(0.42, 0.44, 0.38, 0.42),
        others=("nodule", "device", "congestion", "fibrosis"),
        more_images=0.25,
        bedside=0.6,
        zoom=1.12,
        zoom_sd=0.05,
        rotation_sd=2.5,
        shift_sd=0.04,
        gamma=1.0,
        curve=2.5,
        blur=0.8,
        sharpen=0.5,
        noise=0.025,
        collimation=0.06,
        strength=(0.1, 0.9),
        marker="L",
        bedside_text="PORTABLE",
        quirks={"lateral": 0.08, "unknown view": 0.03, "uncertain": 0.03},
    )

    def image_id(self, picture: Picture) -> str:
        """Five groups of eight hexadecimal digits."""
        name = hexadecimal(picture, 40)
        return "-".join(name[start : start + 8] for start in range(0, 40, 8))

    def _subject(self, picture: Picture) -> str:
        return f"1{picture.patient % 10}{picture.patient:06d}"

    def _study(self, picture: Picture) -> str:
        return f"5{picture.patient:05d}{picture.number:02d}"

    def relative(self, picture: Picture) -> str:
        """By subject and study."""
        subject = self._subject(picture)
        return f"files/p{subject[:2]}/p{subject}/s{self._study(picture)}/{self.image_id(picture)}.jpg"

    def write(self, path: Path, image: Pixels, picture: Picture) -> None:
        """JPEG."""
        write_jpeg(path, image)

    def tables(self, root: Path, pictures: Sequence[Picture]) -> None:
        """Metadata, split and labels by study, and the patients table."""
        views = {"lateral": "LATERAL", "unknown view": ""}
        keys = [
            {"dicom_id": self.image_id(p), "subject_id": self._subject(p), "study_id": self._study(p)} for p in pictures
        ]
        metadata = [
            {**key, "ViewPosition": views.get(p.quirk, p.view), "StudyDate": f"{2150 + p.number}0103"}
            for key, p in zip(keys, pictures, strict=True)
        ]
        parts = {0: "validate", 1: "test", 2: "test"}
        splits = [{**key, "split": parts.get(p.patient % 10, "train")} for key, p in zip(keys, pictures, strict=True)]
        labels = [
            {"subject_id": self._subject(p), "study_id": self._study(p), **labeller_row(p)}
            for p in pictures
            if p.quirk != "unlabelled"
        ]
        people = {
            self._subject(p): {
                "gender": p.sex[0].upper(),
                "anchor_age": 91 if p.age > 89 else int(p.age),
                "anchor_year": 2150,
            }
            for p in pictures
        }
        patients = [{"subject_id": subject, **person} for subject, person in people.items()]
        save_table(root / "mimic-cxr-2.0.0-metadata.csv.gz", pd.DataFrame(metadata))
        save_table(root / "mimic-cxr-2.0.0-split.csv.gz", pd.DataFrame(splits))
        save_table(root / "mimic-cxr-2.0.0-chexpert.csv.gz", pd.DataFrame(labels))
        save_table(root / "patients.csv.gz", pd.DataFrame(patients))


LAYOUT: Final = Mimic()
