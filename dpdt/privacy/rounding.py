"""What rounding adds to the sensitivity of a clipped sum.

One unit's clipped gradient has a norm of at most max_grad_norm, C. But a unit that comes or goes also changes the size
of the physical batches, and the place and neighbours of the other images in them. Convolutions then take other kernels
or add up in another order, and the other images' gradients come out in other last bits. So the sum moves by at most
C·(1 + s), and the accountant gets sigma / (1 + s); s is this module's allowance. It is in proportion to the images
of a logical batch, because the changes may all point one way.

In bfloat16 a changed last bit can make a gradient another one (0.75 % of C was measured for 32 images), and no useful
allowance would cover that; ghost clipping moved more, too, and in a network that nobody measured anything may: an
instance norm of black images moved by 23 C. There all physical batches of a run have one size: the last
is filled up with zeros that weigh nothing (``ClippedGradientSum``), so that kernels stay the same.
"""

import math
from typing import Final

from dpdt.study import Study
from dpdt.study.clipping_engines import CLIPPING_ENGINES

__all__ = [
    "PER_IMAGE",
    "allowance_of",
    "batch_that_is_never_passed",
    "images_at_once",
    "images_of_a_unit",
    "needs_one_size",
    "rounding_allowance",
]

# Part of C that one image may add to the movement of the others' sum, by precision and device: at least ten times the
# worst that was found. Measured on an Intel Xeon (AVX-512, AMX; oneDNN also capped to AVX2, AVX-512 and its BF16) with
# ResNet9 of width 16, 32x32 pixels, 13 kinds of images, ordinary and hard, 32 to 1,024 of them, one and two threads
# (`tests/rounding.py`): float32 at most 1.9e-6 an image; with batches of one size bf16 at most 2.9e-7 and ghost
# clipping 2.9e-6. No GPU was measured: without TF32 its float32 numbers are of the same precision, added up in other
# orders; ghost and bf16 get twice the room there.
PER_IMAGE: Final = {
    "float32": {"cpu": 2e-5, "cuda": 2e-5},
    "bf16": {"cpu": 5e-5, "cuda": 1e-4},
    "ghost": {"cpu": 5e-5, "cuda": 1e-4},  # in float32
}
# A piece of m images takes about as long as m + CALL_IMAGES images in a large one (ResNet9 of width 64, 64x64 pixels,
# on one core of the Xeon above: 8.9, 7.1 and 6.5 ms an image for m of 8, 16 and 32).
CALL_IMAGES: Final = 3.2


def rounding_allowance(*, expected_batch_size: int, num_units: int, images_per_unit: int, precision: str) -> float:
    """The s of the sensitivity C·(1 + s). It depends on public numbers alone.

    A run may go on on another device, and `dpdt plan` asks before there is one: the larger of the devices' numbers.

    Args:
        expected_batch_size: Units of a logical batch, in expectation.
        num_units: Units of the train split; taken as public.
        images_per_unit: Images of a drawn unit.
        precision: ``float32`` or ``bf16``, or the engine's name where it has a row of its own, as ``ghost``.

    >>> rounding_allowance(expected_batch_size=64, num_units=10_000, images_per_unit=1, precision="float32")
    0.00388
    """
    units = min(num_units, batch_that_is_never_passed(expected_batch_size))
    return round(units * images_per_unit * max(PER_IMAGE[precision].values()), 12)


def allowance_of(study: Study, *, num_units: int) -> float:
    """The allowance of a study's DP runs that begin now, on so many units.

    The sums of a head in closed form are float64, of terms of norm 1: of n images they are off by n·u·n at most, in any
    order (Higham 2002, Accuracy and Stability of Numerical Algorithms, equation 3.12), so the two of neighbours differ
    by twice that more than they should, and by what a single term is rounded by.
    """
    if study.train.closed_form:
        images = num_units * images_of_a_unit(study)
        return 2 * images * (images + 2) * 2.0**-53 + 1e-9
    clipping = study.privacy.clipping
    return rounding_allowance(
        expected_batch_size=study.train.batch_of(num_units),
        num_units=num_units,
        images_per_unit=images_of_a_unit(study),
        precision=clipping if CLIPPING_ENGINES[clipping].own_rounding else study.train.precision,
    )


def images_of_a_unit(study: Study) -> int:
    """What goes through the network for a drawn unit of a training: its images, in each of their views."""
    return study.privacy.images_per_patient * study.train.views


def needs_one_size(study: Study) -> bool:
    """Whether the allowance holds only where all physical batches of a DP run have one size.

    So it is in bfloat16, with an engine whose sums rounding moves more, and where nobody measured: in other networks,
    and where layers are clipped one by one, so that the rounding of a small gradient is scaled up with it.
    """
    measured = study.model.name == "resnet9" and study.privacy.clip_scope == "all"
    own_rounding = CLIPPING_ENGINES[study.privacy.clipping].own_rounding
    return study.train.precision == "bf16" or not measured or own_rounding


def batch_that_is_never_passed(expected_batch_size: int) -> int:
    """Units that a drawn batch has more of with probability below 1e-20.

    By Chernoff's bound for a sum of independent draws of mean m, P(X >= x) <= exp(x - m - x·log(x / m)) (Mitzenmacher &
    Upfal 2005, Probability and Computing, theorem 4.4); at x = m + 10·sqrt(m) + 50 the exponent is below -50.

    >>> batch_that_is_never_passed(64), batch_that_is_never_passed(1024)
    (194, 1394)
    """
    return math.ceil(expected_batch_size + 10 * math.sqrt(expected_batch_size) + 50)


def images_at_once(*, most: int, expected_batch_size: int, images_per_unit: int) -> int:
    """Images of every physical batch of a DP run: never more than fit, and few enough that filling up costs little.

    Half a piece is filled up in a step of B images on average, so the time is as (1 + CALL_IMAGES / m)(1 + m / 2B),
    which is least at m = sqrt(2B · CALL_IMAGES).

    Args:
        most: What fits into memory; a unit's images are never parted, even where they are more.
        expected_batch_size: Units of a logical batch, in expectation.
        images_per_unit: Images of a drawn unit.

    >>> images_at_once(most=32, expected_batch_size=128, images_per_unit=1)
    29
    """
    best = math.ceil(math.sqrt(2 * CALL_IMAGES * expected_batch_size * images_per_unit))
    return max(images_per_unit, min(most, best))
