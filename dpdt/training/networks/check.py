"""Whether network, weights and class weights can do what the study asks, before anything is queued."""

from typing import Final

from dpdt.base.vocabulary import LABELS
from dpdt.errors import StudyError
from dpdt.study import Study
from dpdt.study.networks import NETWORKS

__all__ = ["check_class_weights", "check_model"]

SHOWN: Final = 10


def check_class_weights(study: Study) -> None:
    """Class weights of the public data need public data.

    Raises:
        StudyError: There is none that is pretrained on.
    """
    if study.train.class_weights == "public" and study.pretrain_run_id is None:
        labels = study.study.labels
        numbers = "the five numbers" if labels == LABELS else "numbers by label"
        raise StudyError(
            f"{study.file}: train.class_weights = 'public' needs a public domain that is pretrained on. "
            f"Write {numbers} instead ({', '.join(labels)}), or 'none'."
        )


def check_model(study: Study) -> None:
    """Check that given weights load, and that the network is fit for DP; those by name are, with book-keeping.

    Raises:
        StudyError: The weights do not fit; the network cannot be built; or, in a study with DP arms, it gives other
            outputs or is not fit for DP: the offending layers are named.
    """
    own = ":" in study.model.name
    tried = own or (study.model.name in NETWORKS and study.privacy.clipping != "bookkeeping")
    if study.model.name == "resnet9" and study.model.init_weights is None:
        return  # without a second for torch
    import torch

    from dpdt.privacy.clipping.model_requirements import unfit_parts
    from dpdt.training.networks.build import build_model
    from dpdt.training.networks.weights import load_weights

    labels = study.study.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(study.model, size=study.shards.size, folder=study.file.parent, num_outputs=len(labels))
    if study.model.init_weights is not None:
        load_weights(model, study.file.parent / study.model.init_weights, new_head=True, labels=labels)
    if not tried or not any(cell.private for cell in study.cells()):
        return
    found = unfit_parts(model, size=study.shards.size, clipping=study.privacy.clipping)
    if not found:
        with torch.no_grad():
            outputs = model.eval()(torch.zeros(1, 1, study.shards.size, study.shards.size)).shape[1]
        if outputs != len(labels):
            found = [f"forward gives {outputs} outputs; expected num_outputs = {len(labels)}, one a label"]
    if found:
        more = f"\n  … and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        lines = "".join(f"\n  {line}" for line in found[:SHOWN])
        raise StudyError(f"model.name: {study.model.name} is not fit for DP:{lines}{more}")
