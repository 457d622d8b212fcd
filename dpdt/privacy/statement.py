"""The privacy statement of a run (`privacy.json`): what is protected, how strongly, and what else was released."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dpdt.base.vocabulary import format_bound
from dpdt.privacy.accounting import delta_protects
from dpdt.privacy.mechanism import Mechanism

__all__ = [
    "StatedRun",
    "brought_up_to_date",
    "group_privacy",
    "privacy_statement",
    "released",
    "selection_cost",
    "statement_without_privacy",
]

FORMAT: Final = 1
PLAIN_HASHES: Final = {
    "what": "SHA-256 of the split, of all labels and of the shards, in config.json and, if they were sent, as tags in "
    "MLflow (dpdt.cohort_sha256, dpdt.shards_sha256)",
    "source": "exact data of the train split and of the others; the run was begun before such hashes had a key",
    "accounted": "not covered by epsilon: who knows all patients but one can try that one's labels until the hash "
    "fits; do not publish them (`dpdt sync` removes the tags)",
}
PROBES: Final = {
    "what": "the representation: AUC of linear probes, their gap to the model's, displacement, effective dimension",
    "source": "probes fitted without DP on val patients of each test domain, who are in no train split, and tested on "
    "its test patients; the probes themselves are kept nowhere",
    "accounted": "not covered by epsilon",
}
OF_A_STEP: Final = (
    "sample_rate", "noise_multiplier", "max_grad_norm", "rounding_allowance", "sensitivity",
    "accounted_noise_multiplier", "rounding_note", "images_per_unit",
)  # fmt: skip
OF_ALL_STEPS: Final = ("delta", "accountant", "epsilon", "epsilon_optimistic", "events", "target_epsilon")
KEPT_WEIGHTS: Final = {
    "none": "the last step",
    "ema": "an exponential average of the weights after each step, by a rule of the number of steps alone",
    "tail": "the mean of the weights after each of the last quarter of the steps",
}


@dataclass(frozen=True)
class StatedRun:
    """What a statement says of a run besides its mechanism.

    Attributes:
        run_id: The run.
        domain: The domain whose train split it learns from.
        class_weights: The study file's choice, ``none``, ``public``, ``given`` or ``private``.
        initial_weights: Where the weights before the first step came from.
        randomness: ``cryptographic`` or ``seeded``.
        max_images_per_patient: Images of the patient with most in the train split.
        ancestry: Of initial weights from a file or a pretraining: ``runs`` that made them, the last one first, and
            ``from_random``, whether the first of them began with random weights. None: random weights, or not known.
        patients_known: False where the data names no patients and each image counts as one.
        weights_note: What the study file says about given weights; "" for nothing.
        fraction: The part of the domain's train patients that is trained on.
        trained: How many ``parameters`` were trained, ``of`` how many; None for all.
        averaging: Of the weights over the steps, ``none``, ``ema`` or ``tail``.
        automatic: Whether clipping was automatic.
        by_layer: Whether each layer's gradient was clipped by itself.
        views: Of each drawn image.
        closed_form: Whether one release over all units was made in place of steps.
        head_steps: Steps, the first ones, in which the head alone was trained.
    """

    run_id: str
    domain: str
    class_weights: str
    initial_weights: str
    randomness: str
    max_images_per_patient: int
    ancestry: Mapping[str, Any] | None = None
    patients_known: bool = True
    weights_note: str = ""
    fraction: float = 1.0
    trained: Mapping[str, int] | None = None
    averaging: str = "none"
    automatic: bool = False
    by_layer: bool = False
    views: int = 1
    closed_form: bool = False
    head_steps: int = 0


def privacy_statement(mechanism: Mechanism, run: StatedRun, *, spent_steps: int, complete: bool) -> dict[str, Any]:
    """The statement of a DP run.

    Args:
        mechanism: What each step did.
        run: Which run.
        spent_steps: Steps that the ledger counts; before and while it runs, those of the whole run.
        complete: Whether the training has ended; otherwise the epsilon is what the whole of it may spend.

    Returns:
        JSON-like; ``epsilon`` is a number or, where there is no finite bound, None. ``selection`` is that of a run
        that is alone: ``brought_up_to_date`` counts the others.
    """
    spent, answered_by = mechanism.spent(spent_steps)
    statement: dict[str, Any] = {
        "format": FORMAT,
        "run_id": run.run_id,
        "domain": run.domain,
        "mechanism": _mechanism_name(run),
        "unit": mechanism.unit,
        **_neighbours(mechanism.unit),
        "num_units": mechanism.num_units,
        "sample_rate": mechanism.sample_rate,
        "noise_multiplier": mechanism.noise_multiplier,
        "max_grad_norm": mechanism.max_grad_norm,
        "rounding_allowance": mechanism.rounding_allowance,
        "sensitivity": mechanism.sensitivity,
        "accounted_noise_multiplier": mechanism.accounted_noise_multiplier,
        "rounding_note": _rounding_note(mechanism.rounding_allowance),
        "images_per_unit": mechanism.images_per_unit,
        "num_steps": spent_steps,
        "planned_num_steps": mechanism.num_steps,
        "delta": mechanism.delta,
        "accountant": answered_by,
        "epsilon": spent if math.isfinite(spent) else None,
        "epsilon_optimistic": mechanism.optimistic(spent_steps) if complete else None,
        "events": mechanism.events(spent_steps),
        "target_epsilon": mechanism.target_epsilon,
        "complete": complete,
        "randomness": run.randomness,
        "initial_weights": run.initial_weights,
        "ancestry": run.ancestry,
        **_of_axes(run),
        "selection": selection_cost([(mechanism.target_epsilon, mechanism.delta)]),
        "other_releases": [
            *_other_releases(run, counts_noise=mechanism.counts_noise, private=True),
            *([_norm_line(mechanism)] if mechanism.quantile else []),
        ],
        "paragraph": "",
    }
    if run.trained is not None:
        statement["trained"] = run.trained
    if run.head_steps:
        statement["head_steps"] = run.head_steps
    if mechanism.unit == "image":
        statement["patient_bound"] = _patient_bound(spent, mechanism.delta, run.max_images_per_patient)
    elif not run.patients_known:
        statement["unit_note"] = _images_count_as_patients(run.domain)
    statement["paragraph"] = _paragraph(statement)
    return statement


def statement_without_privacy(run: StatedRun, *, unit: str, num_units: int, num_steps: int) -> dict[str, Any]:
    """The statement of a run without DP: the same keys, None where there is nothing to say.

    Args:
        run: Which run; its random numbers come from a seed.
        unit: The privacy unit that the study's DP runs have.
        num_units: Units of the train split.
        num_steps: Steps of the run.
    """
    return {
        "format": FORMAT,
        "run_id": run.run_id,
        "domain": run.domain,
        "mechanism": "none",
        "unit": unit,
        **dict.fromkeys(("neighbouring_relation", "neighbouring_note")),
        "num_units": num_units,
        **dict.fromkeys(OF_A_STEP),
        "num_steps": num_steps,
        "planned_num_steps": num_steps,
        **dict.fromkeys(OF_ALL_STEPS),
        "complete": True,
        "randomness": "seeded",
        "initial_weights": run.initial_weights,
        "ancestry": run.ancestry,
        **_of_axes(run),
        "selection": None,
        "other_releases": _other_releases(run, private=False),
        "paragraph": _unprotected(run.domain),
    }


def _mechanism_name(run: StatedRun) -> str:
    if run.closed_form:
        return "Gaussian mechanism, once: Gram matrix and cross-moments of features, each unit's of a norm of at most 1"
    how = ", automatic clipping" if run.automatic else ""
    how += ", each layer's gradient clipped to max_grad_norm over the root of their number" if run.by_layer else ""
    return f"DP-SGD: Poisson-subsampled Gaussian mechanism{how}"


def _of_axes(run: StatedRun) -> dict[str, Any]:
    """What a statement says of given weights and of a part of the patients; nothing of a run without."""
    note = {"initial_weights_note": run.weights_note} if run.weights_note else {}
    return note | ({"fraction": run.fraction} if run.fraction < 1 else {})


def group_privacy(*, epsilon: float, delta: float, size: int) -> tuple[float, float]:
    """What (epsilon, delta) for one unit means for a group of `size` units.

    The group's guarantee is (k·epsilon, delta · (1 + e^epsilon + … + e^((k-1)·epsilon))), from applying the definition
    k times (Vadhan 2017, The Complexity of Differential Privacy, lemma 2.2).

    Returns:
        The group's epsilon, and its delta, at most 1 (which says nothing).

    >>> group_privacy(epsilon=1.0, delta=1e-6, size=1)
    (1.0, 1e-06)
    """
    total = 0.0
    for power in range(size):
        if power * epsilon > 700 or total > 1 / delta:  # e^710 is no float; the sum is past 1 long before
            return size * epsilon, 1.0
        total += math.exp(power * epsilon)
    return size * epsilon, min(1.0, delta * total)


def selection_cost(budgets: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """What it costs to keep the best of several DP runs on the same patients.

    A study trains a fixed number of runs, and the choice looks at all of them: it is a function of all their weights,
    so basic composition holds: epsilons add up, and so do deltas (Dwork & Roth 2014, The Algorithmic Foundations of
    Differential Privacy, section 3.5). The smaller cost of Papernot & Steinke 2022 (arXiv 2110.03620) is that of a
    number of runs that is random, which a study's is not.

    Args:
        budgets: Target epsilon and delta of each run.

    >>> found = selection_cost([(1.0, 1e-5), (8.0, 1e-5)])
    >>> found["runs"], found["epsilon"], found["delta"]
    (2, 9.0, 2e-05)
    """
    return {
        "runs": len(budgets),
        "epsilon": math.fsum(epsilon for epsilon, _ in budgets),
        "delta": min(1.0, math.fsum(delta for _, delta in budgets)),
        "how": "basic composition over all DP runs on this domain that the study plans or that have a ledger in its "
        "runs' folder, audits' twins among them, each with its target: what the best of them, chosen by looking at "
        "all, costs a patient of the train split; also what all of them together cost who gets them all",
        "note": "Does not count runs of other folders, runs that were removed, or runs whose privacy unit is another.",
    }


def brought_up_to_date(
    statement: dict[str, Any],
    *,
    budgets: Sequence[tuple[float, float]],
    plain_hashes: bool,
    as_of: str,
    probed: bool = False,
) -> dict[str, Any]:
    """A statement with today's count of runs on the same patients, in today's words; the same object if nothing is new.

    Args:
        statement: Of a run; without DP, or without a selection, it stays as it is.
        budgets: As for ``selection_cost``, this run's among them.
        plain_hashes: Whether the run's config has hashes of its data without a key.
        as_of: When the runs were counted; kept from before while their count is the same.
        probed: Whether its evaluation has linear probes.
    """
    before = statement.get("selection")
    if before is None:
        return statement
    selection = {**selection_cost(budgets), "as_of": as_of}
    if {**selection, "as_of": before.get("as_of")} == before:
        selection = before
    releases = [entry for entry in statement["other_releases"] if entry["what"] != PLAIN_HASHES["what"]]
    if plain_hashes:
        releases.append(PLAIN_HASHES)
    if probed and PROBES not in releases:  # what was released once stays so
        releases.append(PROBES)
    now = {
        **statement,
        **_neighbours(statement["unit"]),  # of a statement of before: the same numbers hold for both relations
        "selection": selection,
        "other_releases": releases,
    }
    now["paragraph"] = _paragraph(now)
    return statement if now == statement else now


def released(statement: dict[str, Any], *, site: str | None = None) -> dict[str, Any]:
    """The statement as it leaves the hospital with the weights: without the exact number of one patient's images.

    That number was counted in private data. Its bound is given for the next power of two, which is a bound as well.

    Args:
        statement: Of a run.
        site: What the train domain is called outside; None: as in the study.
    """
    found, bound = dict(statement), statement.get("patient_bound")
    if bound is not None:
        images = 1 << (int(bound["images_of_the_patient_with_most"]) - 1).bit_length()
        spent = math.inf if statement["epsilon"] is None else statement["epsilon"]
        rounded = _patient_bound(spent, statement["delta"], images)
        rounded |= {"images_of_the_patient_with_most": f"at most {images}", "note": "The number was rounded up."}
        found["patient_bound"] = rounded
    if site is not None:
        found["domain"] = site
        if "unit_note" in found:
            found["unit_note"] = _images_count_as_patients(site)
    if found != statement:
        found["paragraph"] = _unprotected(found["domain"]) if found.get("mechanism") == "none" else _paragraph(found)
    return found


def _unprotected(domain: str) -> str:
    return (
        f"This model was trained on the images of {domain} without differential privacy. There is no formal limit to "
        "what it, or anything computed from it, may reveal about a single patient: treat it as confidential as the "
        "training data."
    )


def _images_count_as_patients(domain: str) -> str:
    return (
        f"{domain} does not publish which patient an image is of, so each image counts as one patient: a person with "
        "several images has the guarantee of a group, not this one."
    )


def _neighbours(unit: str) -> dict[str, str]:
    """Exact numbers that depend on how many units there are go with a relation that leaves their number alone."""
    note = (
        f"Two data sets are neighbours if one has a blank record in place of one {unit}: drawn like any other, with no "
        "gradient. So num_units, and with it sample_rate and num_steps, are the same for both and may be published "
        "exactly (zero-out: Kairouz et al. 2021, arXiv 2103.00039; Ponomareva et al. 2023, arXiv 2303.00654). The "
        f"accountants' bounds for adding or removing one {unit} are the same numbers, with these values fixed."
    )
    return {"neighbouring_relation": f"zero out one {unit}", "neighbouring_note": note}


def _rounding_note(allowance: float | None) -> str:
    """What was assumed of floating-point numbers."""
    if allowance is None:
        return (
            "Rounding was not accounted for: epsilon assumes that a unit moves the sum by no more than max_grad_norm. "
            "It also changes the size of the batches and with it last bits of the other units' gradients; runs that "
            "are begun now allow for that."
        )
    return (
        f"A unit is taken to move the sum by sensitivity = max_grad_norm · (1 + {allowance:.3g}): the allowance is for "
        "what rounding changes in the sum of the other units' gradients. Epsilon is that of "
        "accounted_noise_multiplier, the noise over the sensitivity."
    )


def _patient_bound(epsilon: float, delta: float, images: int) -> dict[str, Any]:
    group_epsilon, group_delta = group_privacy(epsilon=epsilon, delta=delta, size=images)
    return {
        "images_of_the_patient_with_most": images,
        "epsilon": group_epsilon if math.isfinite(group_epsilon) else None,
        "delta": group_delta,
        "how": "group privacy: the guarantee for one image applied once for each image of that patient",
        "note": "The number of images was counted in the private data; it is itself not covered by epsilon.",
    }


def _other_releases(run: StatedRun, *, private: bool, counts_noise: float | None = None) -> list[dict[str, str]]:
    """What left the private data, or might be thought to have, besides the weights."""
    weights = {
        "none": "not used",
        "public": "counted in the public pretraining data",
        "given": "numbers of the study file; dpdt did not count them. If they were counted in private data, that is "
        "not covered by epsilon",
        "private": "exact counts of the train split"
        if counts_noise is None
        else f"counts of the train split with Gaussian noise of {counts_noise:.3g} times what one unit can change",
    }[run.class_weights]
    not_covered = "not covered by epsilon" if private else "as everything else here, without protection"
    loss = {
        "what": "training loss over steps, and their seconds (metrics.jsonl, progress, MLflow)",
        "source": "drawn batches and, in the seconds, how many images they had, without noise",
        "accounted": f"{not_covered}; do not publish it",
    }
    return [
        {"what": "class weights", "source": weights, "accounted": _cost_of_weights(run.class_weights, counts_noise)},
        {
            "what": "initial weights",
            "source": f"{run.initial_weights} ({run.weights_note})" if run.weights_note else run.initial_weights,
            "accounted": _cost_of_initial(run, not_covered),
        },
        {
            "what": "number of units",
            "source": f"exact count of {_part(run.fraction)}the train split",
            "accounted": "taken as public",
        },
        {
            "what": "cohort tables (images, exclusions, positives of each label by split), in the report",
            "source": "exact counts, the train split among them",
            "accounted": f"{not_covered}; do not publish them where a single patient could be told from a count",
        },
        *([] if run.closed_form else [loss]),  # of a head in closed form none is written
        {
            "what": "decision thresholds, if the model is evaluated",
            "source": "val patients of the train domain, who are not in the train split",
            "accounted": not_covered,
        },
        {
            "what": "AUC and other test results",
            "source": "test patients, who are not in the train split",
            "accounted": not_covered,
        },
        {
            "what": "AUC of membership inference, if the run is audited",
            "source": "exact losses of the train, val and test patients",
            "accounted": not_covered,
        },
        {
            "what": "choice of checkpoint",
            "source": f"always {KEPT_WEIGHTS[run.averaging]}; nothing is chosen",
            "accounted": "no cost" if run.averaging == "none" else "no cost: computed from weights that epsilon covers",
        },
        {
            "what": "choice of hyperparameters",
            "source": "the study file; dpdt chooses none from data",
            "accounted": "no cost, unless somebody compares runs and keeps the best: then `selection` is the cost",
        },
        *([] if run.views == 1 else [_views_line(run.views, private=private)]),
    ]


def _views_line(views: int, *, private: bool) -> dict[str, str]:
    bounded = "no cost: their mean gradient is clipped once, so they move the sum by no more than one image does"
    return {
        "what": "views of images",
        "source": f"{views} random views of each drawn image, made from a seed, the step and the image's id",
        "accounted": bounded if private else "as everything else here, without protection",
    }


def _norm_line(mechanism: Mechanism) -> dict[str, str]:
    return {
        "what": "the clipping norm of each step",
        "source": "max_grad_norm first; then by counts of the drawn units whose gradient is shorter, with Gaussian "
        f"noise of {mechanism.count_noise:.6g}",
        "accounted": "in epsilon: noise_multiplier is that of the count and of the sum, whose own is "
        f"{mechanism.sum_noise_multiplier:.6g} (Andrew et al. 2021, arXiv 1905.03871, theorem 1)",
    }


def _cost_of_initial(run: StatedRun, not_covered: str) -> str:
    if not _of_unknown(run.initial_weights, run.ancestry):
        return "no cost"
    if run.ancestry and run.ancestry["from_random"]:
        return (
            f"{_made_by(run.ancestry)}. For patients of the train split who were in their training too: {not_covered}"
        )
    return f"it is not known how they began. If patients of the train split were in their training: {not_covered}"


def _of_unknown(initial_weights: str, ancestry: Mapping[str, Any] | None) -> bool:
    """Whether weights come from a file, or from a pretraining that began with one."""
    of_file = initial_weights.startswith("file ")
    return of_file or (initial_weights != "random" and ancestry is not None and not ancestry["from_random"])


def _part(fraction: float) -> str:
    return f"{100 * fraction:.6g}% of " if fraction < 1 else ""


def _made_by(ancestry: Mapping[str, Any]) -> str:
    """The trainings of a chain in words."""
    runs = [f"{run['run_id']} (trained on {run['domain']})" for run in ancestry["runs"]]
    return ", which began with the weights of ".join(runs)


def _initial_caveat(statement: Mapping[str, Any]) -> list[str]:
    """What a guarantee for the steps cannot say of the weights before them."""
    if not _of_unknown(str(statement.get("initial_weights")), statement.get("ancestry")):
        return []
    ancestry, unit = statement.get("ancestry"), statement["unit"]
    if ancestry and ancestry["from_random"]:
        return [
            f"It began with weights that dpdt trained: {_made_by(ancestry)}, from random ones. A {unit} of this "
            "training who was in one of those too has no guarantee here for what those weights keep of them."
        ]
    known = f" beyond {_made_by(ancestry)}" if ancestry and ancestry["runs"] else ""
    note = statement.get("initial_weights_note")
    said, source = f" ({note})" if note else "", str(statement["initial_weights"])
    source = f"a {source}" if source.startswith("file ") else source
    return [
        f"It began with weights of {source}{said}, and it is not known how those were "
        f"made{known}: for a {unit} of this training who was in theirs too, this guarantee does not hold."
    ]


def _cost_of_weights(class_weights: str, counts_noise: float | None) -> str:
    if class_weights != "private":
        return "no cost"
    return "as everything else here, without protection" if counts_noise is None else "in epsilon, composed with it"


def _paragraph(statement: dict[str, Any]) -> str:
    """The statement in words, for readers who answer for patients' data and are no mathematicians."""
    unit, epsilon = statement["unit"], statement["epsilon"]
    removed = "a patient's images" if unit == "patient" else "a single image"
    factor = "any factor" if epsilon is None or epsilon > 13 else f"a factor of {format_bound(math.exp(epsilon))}"
    spent = "no finite bound" if epsilon is None else format_bound(epsilon)
    part = f" ({_part(statement['fraction'])}its train patients)" if "fraction" in statement else ""
    parts = [
        f"This model was trained on {statement['num_units']} {unit}s of {statement['domain']}{part} with differential "
        f"privacy: epsilon = {spent} and delta = {statement['delta']:g} for each {unit}.",
        f"That means: leaving {removed} out of the training, or adding them, changes the probability of anything that "
        f"can be concluded from the model by at most {factor}, apart from events of probability "
        f"{statement['delta']:g}; the number of {unit}s is published and counts as fixed.",
        f"It holds whatever else an attacker knows, for every {unit} of the training data, and for everything computed "
        "from the weights later.",
        "It does not cover what is learned about people in general, nor the items of `other_releases`.",
        *_initial_caveat(statement),
    ]
    if not statement["complete"]:
        parts.insert(1, "The training is not complete; the epsilon is what the whole of it may spend.")
    if statement["randomness"] == "seeded":
        parts.insert(1, "Its noise came from a seed: whoever knows the seed can remove it, so the guarantee is void.")
    if "trained" in statement:
        count = statement["trained"]
        parts.append(
            f"{count['parameters']:,} of the network's {count['of']:,} parameters were trained; all others are those "
            "of the initial weights, to the bit, and nothing of this training is in them."
        )
    if "head_steps" in statement:
        parts.append(
            f"In the first {statement['head_steps']:,} of the {statement['planned_num_steps']:,} counted steps the "
            "last layer alone was trained, with the same sampling and noise; epsilon counts them as all others."
        )
    if "unit_note" in statement:
        parts.insert(1, statement["unit_note"])
    if not delta_protects(statement["delta"], units=statement["num_units"]):
        parts.insert(
            1,
            f"Its delta is not below one over the number of {unit}s: a training that publishes one of them whole "
            "would satisfy it, so do not rely on this guarantee.",
        )
    selection = statement["selection"]
    if selection["runs"] > 1:
        parts.append(
            f"There are {selection['runs']} such models of this domain, trained or planned: whoever publishes the best "
            "of them, chosen by looking at all, or publishes all of them, answers for "
            f"epsilon = {format_bound(selection['epsilon'])} and delta = {format_bound(selection['delta'])} together."
        )
    if unit == "image":
        bound = statement["patient_bound"]
        patient = "no finite bound" if bound["epsilon"] is None else f"epsilon = {format_bound(bound['epsilon'])}"
        parts.append(
            "The guarantee is an image's; for the patient with most images "
            f"({bound['images_of_the_patient_with_most']}) it amounts to {patient} "
            f"and delta = {format_bound(bound['delta'])}."
        )
    return " ".join(parts)
