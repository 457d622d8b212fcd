"""The columns that CheXpert's labeller writes, for CheXpert and MIMIC-CXR-JPG."""

from typing import Final

from dpdt.cohort.synthetic.picture import Picture

__all__ = ["labeller_row"]

LABELLER: Final = {
    "cardiomegaly": "Cardiomegaly",
    "pleural_effusion": "Pleural Effusion",
    "pneumonia": "Pneumonia",
    "atelectasis": "Atelectasis",
    "nodule": "Lung Lesion",
    "congestion": "Edema",
    "device": "Support Devices",
    "fibrosis": "Pleural Other",
}
LABELLER_COLUMNS: Final = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)


def labeller_row(picture: Picture) -> dict[str, float | None]:
    """1, 0, -1 or blank, as CheXpert's labeller writes them.

    -1 stands only where the policy `paper` reads the truth from it: as negative (Pleural Effusion, Atelectasis), or in
    a column that drops the row (the quirk `uncertain`).
    """
    random = picture.generator(3)
    row: dict[str, float | None] = dict.fromkeys(LABELLER_COLUMNS)
    for name, column in LABELLER.items():
        if name in picture.findings or name == picture.other:
            row[column] = 1.0
        elif random.random() < 0.2:
            row[column] = 0.0
    for column in ("Pleural Effusion", "Atelectasis"):
        if row[column] is None and not picture.labels["healthy"] and random.random() < 0.08:
            row[column] = -1.0
    if picture.labels["healthy"]:
        row["No Finding"] = 1.0
    if picture.quirk == "uncertain":
        row[str(random.choice(["Lung Opacity", "Pneumonia", "Edema", "Cardiomegaly", "Lung Lesion"]))] = -1.0
    return row
