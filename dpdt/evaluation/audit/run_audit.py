"""The audit of a run: what attacks on it show, beside what its privacy statement claims.

Two attacks. Membership inference by loss is tried on the run itself. Canaries need a separate training: the run's
twin, which has the same settings and `audit.canaries` made-up patients among its patients (`dpdt.training.canaries`).
What the twin released is scored, and gives a lower bound on epsilon that holds with `audit.confidence`. If it passes
the upper bound, or a part of the mechanism is not as accounted for, the training is broken: the audit has refuted it.
"""

import math
import time
from dataclasses import asdict
from typing import Any, Final

import torch

from dpdt.base.files import read_json, write_json
from dpdt.base.vocabulary import format_bound
from dpdt.errors import DpdtError
from dpdt.evaluation.audit.epsilon_bound import best_lower_bound
from dpdt.evaluation.audit.mechanism_checks import (
    Finding,
    clipping_finding,
    noise_finding,
    sampling_finding,
    sensitivity_finding,
    variance_finding,
)
from dpdt.evaluation.audit.membership import infer_membership, membership_text
from dpdt.runs.read import Run, read_run
from dpdt.runs.state import run_done
from dpdt.study import Cell, Study
from dpdt.study.paths import RunPaths
from dpdt.training.canaries import toss_coins
from dpdt.training.train import train_with_canaries

__all__ = ["audit_run", "refutations", "score_canaries", "summary_text"]

FORMAT: Final = 1


def audit_run(study: Study, cell: Cell) -> dict[str, Any]:
    """Audit a finished run; write `audit.json` into its folder.

    Args:
        study: The study; with `audit.canaries` the twin is trained (or gone on with) first.
        cell: Which run.

    Returns:
        What was written: ``membership``; ``canaries`` (None without); ``refuted``.

    Raises:
        DpdtError: The run is not finished, or the twin was interrupted; or as for ``train``.
    """
    study = study.at(cell)
    run_id = study.run_id(cell)
    run = read_run(study, run_id)
    if run is None or not run_done(study, run_id):
        raise DpdtError(
            f"{study.paths.run(run_id).folder}: not trained to its end. Run `dpdt train {study.file}` first."
        )
    canaries = _audit_twin(study, cell) if study.audit.canaries else None
    found = {
        "format": FORMAT,
        "run_id": run_id,
        "made": time.time(),
        "membership": infer_membership(study, run, confidence=study.audit.confidence).as_dict(),
        "canaries": canaries,
        "refuted": bool(canaries and canaries["refuted"]),
    }
    write_json(run.paths.audit, found)
    return found


def score_canaries(paths: RunPaths, *, confidence: float = 0.95) -> dict[str, Any]:
    """What the canaries of a finished twin show.

    Args:
        paths: The twin.
        confidence: Of the lower bound.

    Returns:
        JSON-like: ``epsilon_lower``, ``epsilon_upper`` (None where there is no bound), how it was found, ``checks`` of
        noise, clipping and sampling, and whether any of it refutes the claim.
    """
    config = read_json(paths.config)
    statement = read_json(paths.privacy) if paths.privacy.exists() else {}
    weights = torch.load(paths.weights, map_location="cpu", weights_only=True)
    included = toss_coins(paths, config["canaries"]["canaries"], seed=None)
    delta = float(config["settings"]["privacy"]["delta"])
    best = best_lower_bound(weights["released"].numpy(), included, delta=delta, confidence=confidence)
    upper = statement.get("epsilon")
    checks = _checks(config, weights, included)
    passed = upper is not None and best.epsilon > upper
    return {
        "run_id": paths.run_id,
        "canaries": len(included),
        "included": int(included.sum()),
        "delta": delta,
        "confidence": confidence,
        "epsilon_lower": best.epsilon,
        "epsilon_upper": upper,
        "guesses": best.guesses,
        "right": best.right,
        "checks": [asdict(check) for check in checks],
        "refuted": passed or not all(check.good for check in checks),
    }


def _audit_twin(study: Study, cell: Cell) -> dict[str, Any]:
    """Train the twin, or what is left of it, and score it."""
    summary = train_with_canaries(study, cell)
    if summary.status != "finished":
        raise DpdtError(f"{summary.run_id}: the audit's training was interrupted. Run `dpdt audit` again: it goes on.")
    return score_canaries(study.paths.run(summary.run_id), confidence=study.audit.confidence)


def _checks(config: dict[str, Any], weights: dict[str, torch.Tensor], included: Any) -> list[Finding]:
    """Noise, clipping (in a DP arm) and sampling against what was accounted for."""
    steps = int(weights["steps"])
    draws, rate = weights["draws"].numpy(), config["sample_rate"]
    found = [sampling_finding(draws, steps=steps, sample_rate=rate)]
    squares = float(((draws - steps * rate) ** 2).sum())
    what = "how often units were drawn: its variance over that of independent draws"
    found.append(variance_finding(what, squares, counts=len(draws), trials=steps, rate=rate))
    if sized := int(weights.get("sized_steps", 0)):  # none in a twin that was begun before
        squares = float(weights["size_squares"])
        what = "batch sizes: their variance over that of independent draws"
        found.append(variance_finding(what, squares, counts=sized, trials=len(draws), rate=rate))
    sigma = config["noise_multiplier"]
    if sigma is None:
        return found
    norm = float(config["settings"]["privacy"]["max_grad_norm"])
    noisy_squares, released = weights["squares"].numpy() / norm**2, weights["released"].numpy() / norm
    if (most := float(weights.get("most_moved", 0.0))) > 0:
        found.append(sensitivity_finding(most / norm))
    out, drawn = ~included, int(draws[len(draws) - len(included) :][included].sum())
    if out.any() and math.isfinite(float(noisy_squares.sum())):
        found.append(noise_finding(float(noisy_squares[out].sum()), int(out.sum()) * steps, noise_multiplier=sigma))
    if drawn:
        samples = int(included.sum()) * steps
        total = float(released[included].sum())
        found.append(clipping_finding(total, drawn, samples, noise_multiplier=sigma))
    return found


def refutations(found: dict[str, Any]) -> list[str]:
    """In words, what refutes the claims of a run; empty where nothing does."""
    canaries = found["canaries"]
    if not canaries:
        return []
    problems = [
        f"{check['what']}: measured {check['measured']:.4g} ({check['low']:.4g} to {check['high']:.4g}), accounted for "
        f"is {check['claimed']:.4g}"
        for check in canaries["checks"]
        if not check["good"]
    ]
    lower, upper = canaries["epsilon_lower"], canaries["epsilon_upper"]
    if upper is not None and lower > upper:
        problems.insert(0, f"epsilon is at least {lower:.3g}, the statement says {format_bound(upper)}")
    return problems


def summary_text(run: Run, found: dict[str, Any]) -> str:
    """The audit in a few lines for people."""
    member, canaries = found["membership"], found["canaries"]
    lines = [
        f"{run.title}",
        f"  membership inference by loss: AUC {membership_text(member)}, "
        f"{member['members']} train against {member['others']} other patients; 0.5 is a guess",
    ]
    if canaries is None:
        lines.append("  no canaries (audit.canaries = 0), so no lower bound on epsilon")
    else:
        upper = canaries["epsilon_upper"]
        lines.append(
            f"  epsilon is at least {canaries['epsilon_lower']:.3f} (confidence {canaries['confidence']:g}: "
            f"{canaries['right']} of {canaries['guesses']} guesses right, {canaries['canaries']} canaries) and at most "
            f"{'without bound' if upper is None else format(upper, '.3f')}"
        )
    lines += [f"  REFUTED: {problem}" for problem in refutations(found)]
    return "\n".join(lines)
