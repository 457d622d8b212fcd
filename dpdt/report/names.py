"""The names that readers know: of hospitals, labels, groups and models. Tables in CSV keep the study's own."""

import re
from typing import Final

from dpdt.evaluation.metrics import ALL, AVERAGE
from dpdt.runs.read import Run
from dpdt.study import BEFORE, arm_name

__all__ = ["domain_name", "group_name", "label_name", "model_name", "network_name"]

DOMAINS: Final = {
    "vindr": "VinDr-CXR",
    "chestxray14": "ChestX-ray14",
    "chexpert": "CheXpert",
    "uka": "UKA-CXR",
    "padchest": "PadChest",
    "mimic": "MIMIC-CXR",
}
ACRONYMS: Final = ("copd", "ild", "pa", "tb")
NETWORK_WORDS: Final = {
    "resnet9": "ResNet9",
    "resnet50": "ResNet-50",
    "densenet121": "DenseNet-121",
    "convnext": "ConvNeXt",
    "vit": "ViT",
    "dinov2": "DINOv2",
    "dinov3": "DINOv3",
}
AGES: Final = re.compile(r"(.*_)?age_(\d+)_(\d+)")


def domain_name(domain: str) -> str:
    """A hospital or data set as its publishers write it; one's own as the study names it.

    >>> domain_name("chestxray14"), domain_name("st_mary")
    ('ChestX-ray14', 'st mary')
    """
    return DOMAINS.get(domain, domain.replace("_", " "))


def label_name(label: str) -> str:
    """A label in words.

    >>> label_name("pleural_effusion"), label_name("enlarged_pa"), label_name("average")
    ('pleural effusion', 'enlarged PA', 'macro AUC')
    """
    words = ("macro", "AUC") if label == AVERAGE else label.split("_")
    return " ".join(word.upper() if word in ACRONYMS else word for word in words)


def group_name(group: str) -> str:
    """A group in words; of ages, the upper one is not in it.

    >>> group_name("age_40_70"), group_name("female"), group_name("all"), group_name("female_age_0_40")
    ('ages 40 to 70', 'female', 'all patients', 'female, ages 0 to 40')
    """
    if group == ALL:
        return "all patients"
    if age := AGES.fullmatch(group):
        first = f"{age[1].rstrip('_').replace('_', ' ')}, " if age[1] else ""
        return f"{first}ages {age[2]} to {age[3]}"
    return group.replace("_", " ")


def network_name(network: str) -> str:
    """A network as papers call it; one's own by its import path.

    >>> network_name("resnet9"), network_name("vit_small_dinov2"), network_name("my_nets:small")
    ('ResNet9', 'ViT small DINOv2', 'my_nets:small')
    """
    return network if ":" in network else " ".join(NETWORK_WORDS.get(word, word) for word in network.split("_"))


def model_name(run: Run) -> str:
    """A run as readers call it: where it was trained, its arm, its seed."""
    if run.kind in ("pretrain", "before"):
        return f"{BEFORE} all trainings"
    twin = "audit twin of " if run.kind == "audit" else ""
    return f"{twin}{domain_name(run.domain)}, {arm_name(run.target_epsilon)}, seed {run.seed}"
