"""Privacy accounting on the command line: `epsilon`, `calibrate`."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal, TypedDict

import typer

from dpdt.cli.app import app
from dpdt.cli.arguments import AsJson
from dpdt.errors import PrivacyError

__all__ = ["calibrate", "epsilon"]

Accountant = Annotated[
    Literal["pld", "prv", "rdp"],
    typer.Option(help="pld is the tightest; prv and rdp are there to compare. With --sample-rate 1 all are exact."),
]
SampleRate = Annotated[float, typer.Option(help="Probability that one privacy unit is in a step's batch, in (0, 1].")]
NumSteps = Annotated[int, typer.Option(help="Logical (noisy) steps.")]
Delta = Annotated[float, typer.Option(help="Probability of failure of the guarantee, below 1 / units.")]
Units = Annotated[
    int | None, typer.Option(help="Privacy units of the train split: a delta of 1 / units or more is refused.", min=1)
]


class Steps(TypedDict):
    """What the accountant needs to know about the steps, except their noise."""

    sample_rate: float
    num_steps: int
    delta: float
    accountant: str


@app.command(epilog="Example: dpdt epsilon --noise-multiplier 1 --sample-rate 0.01 --num-steps 2000 --delta 1e-5")
def epsilon(
    noise_multiplier: Annotated[
        float,
        typer.Option(help="Noise standard deviation over the sensitivity: a statement's accounted_noise_multiplier."),
    ],
    sample_rate: SampleRate,
    num_steps: NumSteps,
    delta: Delta,
    accountant: Accountant = "pld",
    units: Units = None,
    as_json: AsJson = False,
) -> None:
    """Print the epsilon that a number of noisy steps spends.

    The steps are DP-SGD's with Poisson sampling. The noise is that over all one unit can move the sum by: a training
    allows for rounding too, so its noise multiplier is a little larger (docs/privacy.md).
    """
    from dpdt.privacy.accounting import spent_epsilon

    steps = Steps(sample_rate=sample_rate, num_steps=num_steps, delta=delta, accountant=accountant)
    with _refused_as_usage(delta, units):
        spent, steps["accountant"] = spent_epsilon(noise_multiplier=noise_multiplier, **steps)
    _say_who_answered(accountant, steps["accountant"])
    values = {
        "epsilon": spent if math.isfinite(spent) else None,
        "noise_multiplier": noise_multiplier,
        **steps,
    }
    print(json.dumps(values) if as_json else _up(spent))


@app.command(epilog="Example: dpdt calibrate --target-epsilon 1 --sample-rate 0.01 --num-steps 2000 --delta 1e-5")
def calibrate(
    target_epsilon: Annotated[float, typer.Option(help="The epsilon that must not be passed.")],
    sample_rate: SampleRate,
    num_steps: NumSteps,
    delta: Delta,
    accountant: Accountant = "pld",
    units: Units = None,
    as_json: AsJson = False,
) -> None:
    """Print the least noise that keeps within a target epsilon.

    It is that over the sensitivity; a training's own, which `dpdt plan` prints, has an allowance for rounding on top.
    """
    from dpdt.privacy.accounting import calibrate_noise_multiplier, spent_epsilon

    steps = Steps(sample_rate=sample_rate, num_steps=num_steps, delta=delta, accountant=accountant)
    with _refused_as_usage(delta, units):
        sigma = calibrate_noise_multiplier(target_epsilon=target_epsilon, **steps)
    spent, steps["accountant"] = spent_epsilon(noise_multiplier=sigma, **steps)
    _say_who_answered(accountant, steps["accountant"])
    values = {"noise_multiplier": sigma, "epsilon": spent, "target_epsilon": target_epsilon, **steps}
    print(json.dumps(values) if as_json else f"noise multiplier {_up(sigma)} (epsilon {_up(spent)})")


def _say_who_answered(asked: str, answered: str) -> None:
    """Print on stderr that another accountant answered than the one that was asked."""
    from dpdt.base.console import note

    if answered == "exact":
        note("exact: without sampling all steps together are one Gaussian mechanism, whichever accountant is asked")
    elif answered != asked:
        note(f"{asked} has no answer here (or a looser one); this is the bound of {answered}")


def _up(value: float) -> str:
    """Four decimals, rounded up: less noise would pass the target, and a bound that is rounded down is none."""
    return f"{math.ceil(value * 1e4) / 1e4:.4f}" if math.isfinite(value) else f"{value}"


@contextmanager
def _refused_as_usage(delta: float, units: int | None) -> Iterator[None]:
    """All that is computed here comes from the command line, so what the accountant refuses is wrong use."""
    from dpdt.privacy.accounting import check_delta

    try:
        check_delta(delta, units=units)
        yield
    except PrivacyError as err:
        key, colon, what = str(err).partition(": ")
        raise typer.BadParameter(f"--{key.replace('_', '-')}{colon}{what}") from err
