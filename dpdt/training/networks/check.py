"""Whether network, weights and class weights can do what the study asks, before anything is queued."""

import copy
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from dpdt.base.vocabulary import LABELS
from dpdt.errors import StudyError
from dpdt.study import Study
from dpdt.study.networks import NETWORKS

if TYPE_CHECKING:
    from torch import nn

__all__ = ["check_class_weights", "check_model", "no_random_features"]

SHOWN: Final = 10
LARGER: Final = (32, 64, 128, 224, 256, 512)
"""Pixels on a side that are tried where smaller images end in an error."""


def check_class_weights(study: Study) -> None:
    """Class weights of the public data need public data.

    Raises:
        StudyError: There is none that is pretrained on.
    """
    if study.train.class_weights == "public" and not all(view.pretrain_run_id for view in study.views):
        labels = study.study.labels
        numbers = "the five numbers" if labels == LABELS else "numbers by label"
        raise StudyError(
            f"{study.file}: train.class_weights = 'public' needs a public domain that is pretrained on"
            f"{', by each start' if study.initial else ''}. "
            f"Write {numbers} instead ({', '.join(labels)}), or 'none'."
        )


def no_random_features(study: Study) -> StudyError:
    """What to say of parameters that are frozen as they were drawn: what is trained would see noise of the images."""
    remedy = "Set model.init_weights, or add a domain with role = 'public' to pretrain on; or train all parameters."
    if study.start:
        remedy = f"Give initial.{study.start} weights or pretrain = true, leave it out, or train all parameters."
    return StudyError(
        f"{study.file}: train.parameters = {study.train.parameters!r} keeps the others as they begin, and the training "
        f"begins with random weights. {remedy}"
    )


def check_model(study: Study) -> None:
    """Check, of every start, that given weights load, what is trained, and that a custom network is fit for DP.

    Raises:
        StudyError: The weights do not fit; there is nothing to train, or on random weights; the network cannot be
            built, or the images are too small for it; or, in a study with DP arms, it gives other
            outputs or is not fit for DP: the offending layers are named.
    """
    for view in study.starts.values():
        try:
            _check_start(view)
        except StudyError as err:
            if not view.start:
                raise
            raise StudyError(str(err).replace("model.init_weights", f"initial.{view.start}.weights")) from err


def _check_size(study: Study, model: "nn.Module") -> None:
    """Refuse images that are too small for the network: it fails on them, and not on larger ones."""
    size = study.shards.size
    if _takes(model, size):
        return
    enough = next((larger for larger in LARGER if larger > size and _takes(model, larger)), None)
    if enough is not None:
        raise StudyError(
            f"{study.file}: shards.size: images of {size} × {size} pixels are too small for {study.model.name}, which "
            f"takes {enough} × {enough}. Make them larger."
        )


def _takes(model: "nn.Module", size: int) -> bool:
    """Whether the network gives anything for an image of this size; what else is wrong with it is said elsewhere."""
    import torch

    with suppress(Exception), torch.random.fork_rng(devices=[]), torch.no_grad():
        copy.deepcopy(model).eval()(torch.zeros(1, 1, size, size))
        return True
    return False


def _check_start(study: Study) -> None:
    own = ":" in study.model.name
    given, choice = study.model.init_weights, study.train.parameters
    tried = own or (study.model.name in NETWORKS and study.privacy.clipping != "bookkeeping")
    if study.model.name == "resnet9" and given is None and choice == "all":
        return  # without a second for torch
    import torch

    from dpdt.privacy.clipping.model_requirements import unfit_parts
    from dpdt.training.networks.build import build_model
    from dpdt.training.networks.trained import choose_trained, freeze_but_head
    from dpdt.training.networks.weights import load_weights

    labels = study.study.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model(study.model, size=study.shards.size, folder=study.file.parent, num_outputs=len(labels))
    if given is not None:
        load_weights(model, study.file.parent / given, new_head=True, labels=labels)
    choose_trained(model, choice)
    if study.train.head_first:
        freeze_but_head(model)()
    if choice != "all" and study.why_no_before:
        raise no_random_features(study)
    _check_size(study, model)
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
        key = f"initial.{study.start}.network" if study.start else "model.name"
        raise StudyError(f"{key}: {study.model.name} is not fit for DP:{lines}{more}")
