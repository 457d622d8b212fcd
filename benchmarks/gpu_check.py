"""Is what dpdt computes on this machine's GPU right, and how fast is it? `make gpu-check`: a table, and a file.

Needs no network and no data; writes build/bench/gpu_check.json and ends with code 1 if a check fails. Checks: clipping
against single images in float64, how far one image moves the sum, noise against the CPU's bit for bit, a run that was
stopped against one that was not, two GPUs against one. Then the time of whole steps of `TrainingLoop` (loader, passes,
guard, noise, optimizer), what fits into memory, and the least time that the card's own rates allow.

`--device cpu --small` does the same on the CPU with a tiny network: does the script itself work?
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_speed import all_speeds
from gpu_training import SMALL, Pictures, Run, Scale, engine
from torch import Tensor

from dpdt import _core
from dpdt.base.console import show_table
from dpdt.errors import DpdtError
from dpdt.privacy.clipping.engines import CLIPPING
from dpdt.privacy.keystream import KeyStream
from dpdt.privacy.rounding import PER_IMAGE
from dpdt.training.batches import image_losses
from dpdt.training.device import choose_device, device_name
from dpdt.training.networks.resnet9 import ResNet9
from dpdt.training.ranks import joined
from dpdt.training.resume import open_ledger
from dpdt.training.stop import StopFlag
from tests.ports import free_port
from tests.rounding import WAYS, kinds_of_images, movement
from tests.single_images import clipped_sum, flat, gradients

RESULT = Path("build/bench/gpu_check.json")
SECONDS = 420.0  # speed is measured until then; what is left out is said


@dataclass(frozen=True)
class Finding:
    """One line of the table of checks; passed is None where the check could not be made."""

    method: str
    found: str
    wanted: str
    passed: bool | None
    case: str = "check"


class _StopAfter(StopFlag):
    """Asks to stop before a step."""

    def __init__(self, steps: int) -> None:
        self.loop: Any = None
        self.steps = steps
        super().__init__()

    @property
    def requested(self) -> bool:
        return self.loop is not None and self.loop.step >= self.steps

    @requested.setter
    def requested(self, value: bool) -> None:
        pass


def check_exactness(device: torch.device, scale: Scale) -> Iterator[Finding]:
    """Each engine's clipped sum against a loop over single images, both in float64 on the device."""
    torch.manual_seed(0)
    side = min(scale.size, 128)
    model = ResNet9(width=scale.width).double().to(device)
    inputs = torch.rand(4, 1, side, side, dtype=torch.float64, device=device)
    targets = (torch.rand(4, 5, device=device) > 0.5).double()
    rows = gradients(model, inputs, targets, loss=image_losses)
    norm = float(rows.norm(dim=1).median())  # half of them are clipped
    right = clipped_sum(rows, norm=norm)
    limits = {"bookkeeping": 1e-9, "hooks": 1e-9, "ghost": 2e-4}  # ghost's norms have a margin of 1e-4
    for method in CLIPPING:
        sums = engine(method, model, norm=norm)
        sums.add(inputs, targets)
        error = float((flat(sums.partial_sums()) - right).norm() / right.norm())
        limit = limits[method]
        yield Finding(f"{method}, float64, against single images", f"{error:.1e}", f"<= {limit:.0e}", error <= limit)


def check_bound(device: torch.device, scale: Scale) -> Iterator[Finding]:
    """How far an image moves the sum, in clipping norms; where TF32 is on, for the record alone."""
    torch.manual_seed(0)
    model = ResNet9(width=16).to(device)
    images, at_once = scale.rounding_images, max(4, scale.rounding_images // 4)
    pictures = {name: batch.to(device) for name, batch in kinds_of_images(images).items()}
    if scale == SMALL:
        pictures = {name: pictures[name] for name in ("alike", "nearly flat")}
    ways = [(method, precision, False) for method, precision in WAYS]
    for method, precision, tf32 in [*ways, *([("bookkeeping", "float32", True)] if device.type == "cuda" else [])]:
        with _tf32(tf32):
            moved = {
                name: movement(model, method, precision, batch, at_once=at_once) for name, batch in pictures.items()
            }
        others, whole = (float(np.max([each[what] for each in moved.values()])) for what in ("others", "whole"))
        allowed = PER_IMAGE["ghost" if method == "ghost" else precision]["cuda"] * (images + 1)
        least = 0.5 if method == "layers" else 0.99  # a layer whose part is short leaves room
        passed = others <= allowed and least <= whole <= 1 + allowed
        yield Finding(
            f"{method}, {precision}{', TF32 on (never used)' if tf32 else ''}: an image moves a sum of {images}",
            f"{whole:.7f}, the others' sum by {others:.1e} ({others / images:.1e} an image)",
            f"<= 1 + {allowed:.1e}, {allowed:.1e}",
            None if tf32 else passed,
        )


def check_noise(device: torch.device, scale: Scale) -> Iterator[Finding]:
    """The same bits as on the CPU, at once and made ahead; 24 is no power of two, so a reciprocal would be seen."""
    counts = [p.numel() for p in ResNet9(width=scale.width).parameters()]
    for ahead in (False, True):
        here, there = KeyStream.from_seed("gpu-check"), KeyStream.from_seed("gpu-check")
        if ahead:
            here.make_ahead(counts, device=device, num_threads=max(1, torch.get_num_threads() - 1))
        differ = 0
        for number, count in enumerate(counts):
            wanted = torch.randn(count, generator=torch.Generator().manual_seed(number))
            found = wanted.clone().to(device)
            here.noise(found, scale=0.7, divisor=24)
            there.noise(wanted, scale=0.7, divisor=24)
            differ += int((found.cpu() != wanted).sum())
        here.close()
        name = f"noise{' made ahead' if ahead else ''}, bits of the CPU's"
        yield Finding(name, f"{differ} of {sum(counts):,} numbers differ", "0", differ == 0)


def check_resume(device: torch.device, scale: Scale) -> Iterator[Finding]:
    """A run that was stopped and goes on has the weights of one that was not, bit for bit."""
    data = Pictures(4 * scale.logical, scale.size)
    for method, precision in (("plain", "float32"), ("bookkeeping", "float32"), ("bookkeeping", "bf16")):
        weights = []
        for name, stops in (("whole", ()), ("again", ()), ("stopped", (3, 7))):
            with tempfile.TemporaryDirectory(dir=".") as folder:
                run = Run(Path(folder), device, method, precision, scale, len(data))
                for stop in (*stops, None):
                    found = _train(run, data, stop)
                weights.append((name, found))
        for name, other in weights[1:]:
            differ = sum(int((one != two).sum()) for one, two in zip(weights[0][1], other, strict=True))
            what = "stopped twice" if name == "stopped" else "trained again"
            yield Finding(f"{method}, {precision}, {what}", f"{differ} weights differ", "0", differ == 0)


def _train(run: Run, data: Pictures, stop: int | None) -> list[Tensor]:
    """Train to the end, or until before some step."""
    flag = _StopAfter(run.num_steps if stop is None else stop)
    if run.method == "plain":
        flag.loop = run.loop(data)
        flag.loop.run(stop=flag)
    else:
        with open_ledger(run.plan()) as ledger:
            flag.loop = run.loop(data, steps=ledger)
            flag.loop.run(stop=flag)
    return [p.detach().cpu() for p in flag.loop.model.parameters()]


def check_ranks(device: torch.device, scale: Scale) -> Iterator[Finding]:
    """Two processes, each with a GPU (NCCL), have one process's sums; both have the same bits."""
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        yield Finding("two ranks against one", "one GPU: not made", "two GPUs", None)
        return
    found = {}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for size in (1, 2):
            shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
            shared["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path[1:]])
            files = [Path(folder) / f"rank-{rank}-of-{size}.pt" for rank in range(size)]
            command = [sys.executable, __file__, "--device", device.type, *(["--small"] if scale == SMALL else [])]
            processes = [
                subprocess.Popen(
                    [*command, "--rank-result", str(file)],
                    env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                )
                for rank, file in enumerate(files)
            ]
            codes = [process.wait(timeout=300) for process in processes]
            if any(codes):
                yield Finding(f"{size} ranks", f"ended with {codes}", "0", False)
                return
            found[size] = [torch.load(file, weights_only=True) for file in files]
    yield from compare_ranks(found[1][0], *found[2])


def compare_ranks(alone: dict[str, Any], one: dict[str, Any], other: dict[str, Any]) -> Iterator[Finding]:
    """What one process and two found (`rank_result`)."""
    differ = sum(int((a != b).sum()) for a, b in zip(one["weights"], other["weights"], strict=True))
    yield Finding("two ranks, weights of both", f"{differ} differ", "0", differ == 0)
    error = float((flat(one["sums"]) - flat(alone["sums"])).norm() / flat(alone["sums"]).norm())
    yield Finding("two ranks, sum against one rank's", f"{error:.1e}", "<= 1e-05", error <= 1e-5)
    expected = sum(value.numel() for value in one["sums"]) * 4
    told = f"{one['bytes']:,} bytes added up a step ({one['calls']} messages)"
    yield Finding("two ranks, a step's sum and votes", told, f"{expected:,} and votes", one["bytes"] < expected + 100)


def rank_result(device: torch.device, scale: Scale, result: Path) -> None:
    """One of the processes of `check_ranks`: two steps; the first one's sum, the weights, what was added up."""
    import torch.distributed as dist

    sent: list[int] = []
    all_reduce = dist.all_reduce

    def counted(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        sent.append(tensor.numel() * tensor.element_size())
        return all_reduce(tensor, *args, **kwargs)

    dist.all_reduce = counted
    data = Pictures(2 * scale.logical, scale.size)
    with joined(StopFlag()) as ranks, tempfile.TemporaryDirectory() as folder:
        loop = Run(Path(folder), device, scale=scale, images=len(data)).loop(data, ranks=ranks)
        sums: list[Tensor] = []
        release = loop.gradients.release

        def kept(*, expected_batch_size: int) -> None:
            sums.extend(value.detach().cpu() for value in loop.gradients.partial_sums() if not sums or len(sums) < many)
            release(expected_batch_size=expected_batch_size)

        many = len(loop.gradients.parameters)
        loop.gradients.release = kept  # type: ignore[method-assign]
        sent.clear()
        for rows in np.arange(len(data)).reshape(2, -1):
            loop._take_step(rows)
        weights = [p.detach().cpu() for p in loop.model.parameters()]
        loop.reader.close()
        loop.noise.close()
    torch.save({"sums": sums, "weights": weights, "bytes": sum(sent) // 2, "calls": len(sent) // 2}, result)


@contextmanager
def _tf32(on: bool) -> Iterator[None]:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = on
    yield
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures hold for: the card as nvidia-smi sees it, versions, cores."""
    facts: dict[str, Any] = {"case": "machine", "method": device_name(device), "ms": None, "torch": torch.__version__}
    facts |= {"cuda": torch.version.cuda, "gpus": torch.cuda.device_count(), "cores": _core.available_threads()}
    if device.type == "cuda":
        facts["cudnn"] = torch.backends.cudnn.version()
    fields = "name,driver_version,memory.total,power.limit,clocks.max.sm,pcie.link.gen.max,pcie.link.width.max"
    program = shutil.which("nvidia-smi")
    if program is None:
        return {**facts, "nvidia_smi": "not there"}
    done = subprocess.run([program, f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True)
    return {**facts, "nvidia_smi": dict(zip(fields.split(","), done.stdout.splitlines()[0].split(", "), strict=False))}


def all_checks(device: torch.device, scale: Scale) -> Iterator[Finding]:
    """Every check; one that ends in an error has failed, and the others are made."""
    for check in (check_exactness, check_bound, check_noise, check_resume, check_ranks):
        try:
            yield from check(device, scale)
        except Exception as err:  # noqa: BLE001  a library that does not work here is what this script looks for
            yield Finding(check.__name__, f"{type(err).__name__}: {err}"[:300], "no error", False)


def show(findings: list[Finding], figures: list[dict[str, Any]]) -> None:
    """The tables."""
    words = {True: "good", False: "WRONG", None: "-"}
    show_table(
        "Checks", ["what", "found", "wanted", ""], [[f.method, f.found, f.wanted, words[f.passed]] for f in findings]
    )
    rows = []
    for line in figures:
        if "images_s" in line:
            shares = ", ".join(f"{name} {100 * part:.1f} %" for name, part in line["shares"].items())
            peak = "" if line["peak_mb"] is None else f"{line['peak_mb']:,.0f}"
            found = [f"{line['ms']:.2f}", f"{line['images_s']:,.0f}", peak, f"{line['floor_ms']:.2f}", shares]
        elif "images" in line:
            told = (
                f"{line['images']} images fit, auto takes {line['auto']}; a batch costs {line['call_images']:.1f} more"
            )
            found = [f"{line['ms']:.2f}", "", "", "", told]
        else:
            found = [
                "",
                "",
                "",
                "",
                line.get("error") or str({k: v for k, v in line.items() if k not in ("case", "ms")}),
            ]
        rows.append([line["method"], line["case"], *found])
    show_table("Speed", ["method", "case", "ms", "images/s", "peak MB", "floor ms", "of a step"], rows)


def main(argv: list[str] | None = None) -> int:
    """Check, measure, print, write; 1 if a check failed, 2 without the device."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="a tiny network: does the script work?")
    parser.add_argument("--rank-result", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    begun, scale = time.monotonic(), SMALL if arguments.small else Scale()
    try:
        device = choose_device(arguments.device)
    except DpdtError as err:
        print(err, file=sys.stderr)
        return 2
    if arguments.rank_result:
        rank_result(device, scale, arguments.rank_result)
        return 0
    findings = list(all_checks(device, scale))
    figures = [machine(device), *all_speeds(device, scale, until=begun + SECONDS)]
    show(findings, figures)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    lines = [*figures, *({**asdict(finding), "ms": None} for finding in findings)]
    RESULT.write_text(json.dumps(lines, indent=2) + "\n")
    wrong = [finding.method for finding in findings if finding.passed is False]
    print(f"{len(findings)} checks, {len(wrong)} wrong, in {time.monotonic() - begun:.0f} s: {RESULT}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
