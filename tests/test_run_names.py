"""Names and fingerprints that an earlier version gave: a training that is done must not be done, and paid for, again.

All values here were written by commit 7e043eb, where each fingerprint had its own list of the keys that it leaves out.
"""

from pathlib import Path
from typing import Any

import pytest

from dpdt.base.files import fingerprint, read_json, write_json
from dpdt.errors import DpdtError
from dpdt.runs.config import freeze_config, frozen_settings
from dpdt.study import Study, load_study

DOMAINS = """
[domains.vindr]
root = "raw/vindr"
[domains.padchest]
root = "raw/padchest"
[domains.mimic]
root = "raw/mimic"
"""
OWN = """
[domains.own]
root = "data"
kind = "table"
[domains.own.table]
file = "list.csv"
image = "image"
patient = "patient"
[domains.own.table.labels]
cardiomegaly = { column = "heart" }
"""
STUDIES = {
    "defaults": DOMAINS,
    "paper": '[study]\npreset = "paper"\n' + DOMAINS,
    "bf16": '[train]\nprecision = "bf16"\n' + DOMAINS,
    "unit image": '[privacy]\nunit = "image"\ntarget_epsilons = [0.5, inf]\n' + DOMAINS,
    "private class weights": '[train]\nclass_weights = "private"\ndomains = ["vindr"]\nseeds = [3, 4]\n' + DOMAINS,
    "given class weights": "[train]\nclass_weights = [1, 2, 3, 4, 5.5]\n[study]\nseed = 7\n" + DOMAINS,
    "given weights": '[model]\ninit_weights = "weights.pt"\nin_channels = 3\n' + DOMAINS,
    "own network": '[model]\nname = "nets:small"\n' + DOMAINS,
    "own network with options": '[model]\nname = "nets:small"\noptions = { depth = 2 }\n' + DOMAINS,
    "own hospital": "[privacy]\nimages_per_patient = 4\n" + OWN,
    "speed": (
        '[shards]\nnum_threads = 3\nmax_reject_fraction = 0.5\n[train]\nphysical_batch_size = "auto"\n'
        'checkpoint_every_steps = 7\ndevice = "cpu"\nnum_threads = 2\n[privacy]\nreserve_steps = 3\n' + DOMAINS
    ),
}
NAMES: dict[str, tuple[str, str]] = {
    "defaults": (
        "pretrain-mimic-5868a0ca e69d3c6a 00dda6cb da2fef19 5e21fbaa 65f24e0e 9de83ff7",
        "56949777 680749a8 289a150d 102aa1cd 90963d11 82f9edbd d0037440 245bcfce",
    ),
    "paper": (
        "pretrain-mimic-19b0e2ce ca5d79a2 731aea6d 4615335a 5b300a2b 8de6f8c1 6ce9977f",
        "56949777 3b143938 289a150d 742a9bd8 90963d11 bc3183ed 065d7020 050b4d68",
    ),
    "bf16": (
        "pretrain-mimic-70b12214 da6141ba 29f90e88 f12a357d e994cf1f a5b28181 d3aa908a",
        "56949777 680749a8 289a150d 102aa1cd 90963d11 82f9edbd d0037440 7f3531f2",
    ),
    "unit image": (
        "pretrain-mimic-6e08eaf4 4d12d27e b4bd61eb 88717c4b d045d057",
        "56949777 680749a8 289a150d 102aa1cd 90963d11 82f9edbd d0037440 9269c46b",
    ),
    "private class weights": (
        "pretrain-mimic-5868a0ca b5cadb9a 7ffebca4 29d0cdef b36d3cad bb4b9999 eaceb763",
        "56949777 680749a8 90963d11 82f9edbd d0037440 8cfaec53",
    ),
    "given class weights": (
        "pretrain-mimic-f217adf7 4b4c46b2 b636ae4f c934786d 5d056603 3264fe96 bdaba503",
        "fc43bc94 be30b537 3e2d4cc1 c5f4b040 e364be96 5c3a67cd b67ddb76 f5cbd90b",
    ),
    "given weights": (
        "None f0cc85df debae63e 55070dc9 439a977a febf94c2 ccd1d07c",
        "56949777 680749a8 289a150d 102aa1cd a34fa54d 0ef11a11",
    ),
    "own network": (
        "pretrain-mimic-bdca570e 08073f03 5dd5b3f8 f03bc7a7 3c6a83de cfab4f5e 54c5c7e6",
        "56949777 680749a8 289a150d 102aa1cd 90963d11 82f9edbd 2f67b7b3 10ed211d",
    ),
    "own network with options": (
        "pretrain-mimic-86f9537b cfea7ba2 c755287c afa7ba8a 912fa7e9 05d2ab1f cec0bfe9",
        "56949777 680749a8 289a150d 102aa1cd 90963d11 82f9edbd 9709db41 3658659f",
    ),
    "own hospital": ("None 3c2fba39 1ad56c6f 055a6a70", "3ca40f3d 1bbed0f1 d0037440 08bac5c3"),
    "speed": (
        "pretrain-mimic-5868a0ca e69d3c6a 00dda6cb da2fef19 5e21fbaa 65f24e0e 9de83ff7",
        "56949777 680749a8 289a150d 102aa1cd 90963d11 82f9edbd 80a7c4c4 ce7f8b27",
    ),
}
# What another value of a key changes: the fingerprints of a (c)ohort and of (s)hards, the names of the (p)retraining,
# of a (d)ifferentially private training and of one with (n)o DP; and (r): a run begun before refuses to go on.
CHANGES: dict[str, tuple[str, str]] = {
    "study.name": ('"x"', ""),
    "study.folder": ('"out"', ""),
    "study.seed": ("5", "cspdnr"),
    "study.private_files": ("false", ""),
    "domains.vindr.root": ('"elsewhere"', ""),
    "domains.vindr.kind": ('"uka"', "csdn"),
    "domains.vindr.role": ('"study"', ""),
    "domains.vindr.files": ('{ table = "labels.csv" }', "csdn"),
    "domains.vindr.uncertain": ('"unknown"', "csdn"),
    "domains.vindr.contradictions": ('"keep"', "csdn"),
    "domains.vindr.unknown_views": ('"include"', "csdn"),
    "domains.vindr.val_fraction": ("0.2", "csdn"),
    "domains.vindr.test_fraction": ("0.3", "csdn"),
    "shards.size": ("256", "spdnr"),
    "shards.recipe": ('"paper"', "spdnr"),
    "shards.equalise": ("false", "spdnr"),
    "shards.aspect": ('"pad"', "spdnr"),
    "shards.exact_decode": ("true", "spdnr"),
    "shards.voi_window": ("true", "spdnr"),
    "shards.shard_bytes": ("1000000", "spdnr"),
    "shards.num_threads": ("3", ""),
    "shards.max_reject_fraction": ("0.5", ""),
    "model.name": ('"nets:small"', "pdnr"),
    "model.width": ("32", "pdnr"),
    "model.in_channels": ("3", "pdnr"),
    "model.init_weights": ('"w.pt"', "pdnr"),
    "pretrain.num_epochs": ("3", "pdn"),
    "pretrain.expected_batch_size": ("16", "pdn"),
    "pretrain.learning_rate": ("0.5", "pdn"),
    "pretrain.weight_decay": ("0.5", "pdn"),
    "train.domains": ('["vindr"]', ""),
    "train.seeds": ("[0, 1]", ""),
    "train.num_epochs": ("3", "dnr"),
    "train.expected_batch_size": ("16", "dnr"),
    "train.physical_batch_size": ("7", ""),
    "train.learning_rate": ("0.5", "dnr"),
    "train.weight_decay": ("0.5", "dnr"),
    "train.class_weights": ('"public"', "dnr"),
    "train.checkpoint_every_steps": ("7", ""),
    "train.device": ('"cpu"', ""),
    "train.precision": ('"bf16"', "pdnr"),
    "train.num_threads": ("3", ""),
    "privacy.target_epsilons": ("[1.0, inf]", ""),
    "privacy.unit": ('"image"', "pdnr"),
    "privacy.images_per_patient": ("2", "dnr"),
    "privacy.delta": ("1e-6", "dr"),
    "privacy.allow_large_delta": ("true", "dr"),
    "privacy.max_grad_norm": ("1.0", "dr"),
    "privacy.class_weights_share": ("0.1", "dr"),
    "privacy.accountant": ('"rdp"', "dr"),
    "privacy.clipping": ('"hooks"', "dr"),
    "privacy.reserve_steps": ("3", ""),
    "evaluate.bootstrap_draws": ("10", ""),
    "audit.canaries": ("100", ""),
    "tracking.experiment": ('"x"', ""),
    "cluster.cpus_per_task": ("3", ""),
}
# Keys that came after that commit; of them that version knew nothing.
LATER: dict[str, tuple[str, str]] = {
    "train.sample_rate": ("0.1", "dnr"),
    "train.averaging": ('"ema"', "dnr"),
    "train.optimizer": ('"sgd"', "dnr"),
    "train.full_learning_rate_at": ("300", "dnr"),
    "train.schedule": ('"cosine"', "dnr"),
    "train.warm_up": ("0.1", "dnr"),
    "train.views": ("2", "dnr"),
    "train.head_first": ("0.2", "dnr"),
    "privacy.clip_factor": ('"automatic"', "dr"),
    "privacy.clip_scope": ('"layers"', "dr"),
}


def load(folder: Path, text: str, *overrides: str) -> Study:
    (folder / "study.toml").write_text(text)
    return load_study(folder, overrides=overrides)


def names(study: Study) -> tuple[str, str]:
    """The pretraining's and the end of all trainings'; then the fingerprints of cohorts, shards and frozen settings."""
    runs = [str(study.pretrain_run_id), *(study.run_id(cell)[-8:] for cell in study.cells())]
    data = [f(name) for name in study.used_domains for f in (study.cohort_fingerprint, study.shards_fingerprint)]
    settings = [fingerprint(_known(frozen_settings(study, kind=kind))) for kind in ("pretrain", "train")]
    return " ".join(runs), " ".join(digest[:8] for digest in (*data, *settings))


def _known(settings: dict[str, Any]) -> dict[str, Any]:
    """Without keys that came later: they may be in the config of a run that begins now."""
    seed = {"seed": settings.pop("seed")}
    known = {*CHANGES, "model.options"}
    return seed | {
        name: {key: value for key, value in section.items() if f"{name}.{key}" in known}
        for name, section in settings.items()
    }


@pytest.mark.parametrize("name", STUDIES)
def test_names_are_those_of_the_version_before(name: str, tmp_path: Path) -> None:
    assert names(load(tmp_path, STUDIES[name])) == NAMES[name]


def changes(before: Study, after: Study) -> str:
    """Letters of what is not the same in two studies."""

    def decided(study: Study) -> dict[str, object]:
        private, plain = (next(cell for cell in study.cells() if cell.private is dp) for dp in (True, False))
        return {
            "c": study.cohort_fingerprint("vindr"),
            "s": study.shards_fingerprint("vindr"),
            "p": study.pretrain_run_id,
            "d": study.run_id(private),
            "n": study.run_id(plain),
        }

    now = decided(after)
    found = "".join(letter for letter, value in decided(before).items() if value != now[letter])
    run = before.paths.run("one")
    freeze_config(run, {"settings": frozen_settings(before, kind="train")})
    try:
        freeze_config(run, {"settings": frozen_settings(after, kind="train")})
    except DpdtError:
        return found + "r"
    return found


def test_a_config_from_before_a_key_came_has_its_default(tmp_path: Path) -> None:
    # `train.precision` and `model.options` came when there were trainings already
    study = load(tmp_path, DOMAINS)
    run = study.paths.run("one")
    config = {"settings": frozen_settings(study, kind="train")}
    freeze_config(run, config)
    older = read_json(run.config)
    del older["settings"]["train"]["precision"], older["settings"]["model"]["options"]
    write_json(run.config, older)
    assert freeze_config(run, config) == older
    bf16 = load(tmp_path, DOMAINS, "train.precision=bf16")
    with pytest.raises(DpdtError, match=r"begun with settings\.train\.precision = None, it is 'bf16' now"):
        freeze_config(run, {"settings": frozen_settings(bf16, kind="train")})


@pytest.mark.parametrize("key", [*CHANGES, *LATER])
def test_a_key_changes_what_it_changed_in_the_version_before(key: str, tmp_path: Path) -> None:
    value, changed = {**CHANGES, **LATER}[key]
    before, after = load(tmp_path, DOMAINS), load(tmp_path, DOMAINS, f"{key}={value}")
    assert changes(before, after) == changed
