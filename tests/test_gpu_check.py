"""`make gpu-check` works where there is no GPU, in small; and each check finds the fault that it is there for."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dpdt.privacy.clipping.gradient_sum import ClippedGradientSum
from dpdt.privacy.keystream import KeyStream

# Scripts, no package: Opacus installs one of the name "benchmarks".
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
gpu_check, gpu_speed, gpu_training = map(importlib.import_module, ("gpu_check", "gpu_speed", "gpu_training"))

CPU = torch.device("cpu")
METHODS, SMALL = gpu_speed.METHODS, gpu_training.SMALL

pytestmark = pytest.mark.slow


def failed(findings: Iterator[Any]) -> list[str]:
    return [finding.method for finding in findings if finding.passed is False]


@pytest.fixture(autouse=True)
def _one_thread_and_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_whole_check_runs_in_small_and_writes_a_line_a_method_and_check(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert gpu_check.main(["--device", "cpu", "--small"]) == 0
    lines = json.loads(gpu_check.RESULT.read_text())
    assert all({"case", "method", "ms"} <= line.keys() for line in lines)  # as every benchmark's
    checks = [line for line in lines if line["case"] == "check"]
    assert len(checks) == 21
    assert all(line["passed"] for line in checks)
    speeds = [line for line in lines if "images_s" in line]
    assert {line["method"] for line in speeds} == set(METHODS)
    assert len(speeds) == 7  # ghost is refused in bf16, and the line says so
    assert [line["method"] for line in lines if "ghost breaks its bound" in line.get("error", "")] == ["ghost"]
    assert all(set(line["shares"]) == {"loader", "noise", "optimizer"} and line["floor_ms"] > 0 for line in speeds)
    assert [line["images"] for line in lines if "auto" in line] == [SMALL.largest] * 4
    assert "21 checks, 0 wrong" in capsys.readouterr().out


def test_the_floor_is_of_bytes_or_of_operations_whichever_takes_longer(tmp_path: Path) -> None:
    # An H100's data sheet: 3.35 TB/s, 67 and 989 TFLOP/s. 128 pictures: 25 GFLOP each in float32; 377 MB each in bf16.
    rates = {"bytes": 3.35e12, "float32": 67e12, "bf16": 989e12}
    found = [
        gpu_speed.floor_ms(gpu_training.Run(tmp_path, CPU, "bookkeeping", precision), rates)
        for precision in ("float32", "bf16")
    ]
    assert found == pytest.approx([47.76, 14.40], abs=0.01)


def test_no_clipping_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClippedGradientSum, "_factors", lambda self, norms: torch.ones_like(norms).to(self.sums[0]))
    assert len(failed(gpu_check.check_exactness(CPU, SMALL))) == 3


def test_a_factor_that_is_a_thousandth_too_large_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    factors = ClippedGradientSum._factors
    monkeypatch.setattr(ClippedGradientSum, "_factors", lambda self, norms: 1.001 * factors(self, norms))
    assert len(failed(gpu_check.check_bound(CPU, SMALL))) == 5


def test_noise_that_is_multiplied_with_a_reciprocal_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    noise, calls = KeyStream.noise, []

    def rounded_otherwise(self: KeyStream, values: Tensor, *, scale: float, divisor: float) -> None:
        noise(self, values, scale=scale, divisor=1.0 if len(calls) % 2 == 0 else divisor)
        if len(calls) % 2 == 0:  # the one on the device: rounded before, as no division in double precision is
            values.mul_(1 / divisor)
        calls.append(divisor)

    monkeypatch.setattr(KeyStream, "noise", rounded_otherwise)
    assert len(failed(gpu_check.check_noise(CPU, SMALL))) == 2


def test_an_optimizer_that_is_not_put_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpdt.training.loop.load_optimizer", lambda optimizer, state: None)
    wrong = failed(gpu_check.check_resume(CPU, SMALL))
    assert wrong == [f"{way}, stopped twice" for way in ("plain, float32", "bookkeeping, float32", "bookkeeping, bf16")]


def test_ranks_that_differ_or_send_more_than_the_sum_are_found() -> None:
    right = {"sums": [torch.ones(3, 2)], "weights": [torch.zeros(3, 2)], "bytes": 24 + 8, "calls": 2}
    assert failed(gpu_check.compare_ranks(right, right, right)) == []
    other = {**right, "weights": [torch.full((3, 2), 1e-9)]}
    assert failed(gpu_check.compare_ranks(right, right, other)) == ["two ranks, weights of both"]
    alone = {**right, "sums": [torch.full((3, 2), 1.0001)]}
    assert failed(gpu_check.compare_ranks(alone, right, right)) == ["two ranks, sum against one rank's"]
    chatty = {**right, "bytes": 2 * 24 + 100}
    assert failed(gpu_check.compare_ranks(right, chatty, chatty)) == ["two ranks, a step's sum and votes"]


def test_a_check_that_ends_in_an_error_has_failed_and_the_others_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(device: torch.device, scale: Any) -> Iterator[Any]:
        raise RuntimeError("expected scalar type BFloat16 but found Float")

    for name in ("check_bound", "check_exactness", "check_resume", "check_ranks"):
        monkeypatch.setattr(gpu_check, name, broken)
    found = list(gpu_check.all_checks(CPU, SMALL))
    assert [finding.passed for finding in found] == [False, False, True, True, False, False]
    assert "expected scalar type" in found[0].found
