"""Time and memory of a training on this machine: a few physical batches of random images, each arm in its own process.

`python -m dpdt.jobs.plan.measure FROZEN ARM` is that process; it prints one line of JSON.
"""

import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dpdt.base.files import fingerprint, read_json, write_json
from dpdt.base.vocabulary import LABELS
from dpdt.errors import DpdtError
from dpdt.study import Study
from dpdt.study.frozen import freeze_study, thaw_study

if TYPE_CHECKING:
    import torch

__all__ = ["ARMS", "Speed", "known_speeds", "measure", "speed_key"]

ARMS: Final = ("plain", "private", "evaluate")
SECONDS: Final = 5.0
"""Of measuring, after the first batch; at least two batches are taken."""
TIMEOUT_SECONDS: Final = 300


@dataclass(frozen=True)
class Speed:
    """What one arm costs on one machine.

    Attributes:
        arm: `plain` and `private` train, `evaluate` tests; with a start before it where the study has starts.
        image_ms: Milliseconds an image.
        step_ms: Milliseconds that each logical step takes besides its images (noise, optimiser).
        peak_gb: Most memory in use at once: of the GPU, or of the whole process.
        device: What it was measured on.
    """

    arm: str
    image_ms: float
    step_ms: float
    peak_gb: float
    device: str


def known_speeds(study: Study) -> dict[str, Speed]:
    """What `measure` found for exactly these settings; empty if it never ran."""
    file = study.paths.measured
    if not file.exists():
        return {}
    recorded = read_json(file)
    if recorded.get("settings") != _settings(study):
        return {}
    return {speed["arm"]: Speed(**speed) for speed in recorded["speeds"]}


def measure(study: Study) -> dict[str, Speed]:
    """Run every arm for a few seconds, and keep the result in the study's folder.

    Raises:
        DpdtError: An arm fails, for instance for want of memory.
    """
    arms = [arm for arm in ARMS if arm != "private" or any(cell.private for cell in study.cells())]
    arms = [speed_key(start, arm) for start in study.starts for arm in arms]
    with tempfile.TemporaryDirectory() as folder:
        frozen = Path(folder) / "study.json"
        freeze_study(study, frozen)
        speeds = [_in_process(frozen, arm) for arm in arms]
    study.paths.measured.parent.mkdir(parents=True, exist_ok=True)
    write_json(study.paths.measured, {"settings": _settings(study), "speeds": [asdict(speed) for speed in speeds]})
    return {speed.arm: speed for speed in speeds}


def speed_key(start: str, arm: str) -> str:
    """What the speed of an arm is called: of a study with several starts each has its own."""
    return f"{start}/{arm}" if start else arm


def _settings(study: Study) -> str:
    """Everything that time and memory depend on, except the machine."""
    models = [start.model.deciding() for start in study.starts.values()]
    train = study.train
    values: list[str | int] = [
        study.shards.size,
        study.privacy.clipping,
        train.images_at_once,
        train.device,
        train.num_threads,
    ]
    values += [fingerprint(train.parameters)] if train.parameters != "all" else []
    values += [study.privacy.clip_scope] if study.privacy.clip_scope != "all" else []
    values += [train.precision] if train.precision != "float32" else []
    values += [len(study.study.labels)] if study.study.labels != LABELS else []
    return fingerprint([*models, *values])


def _in_process(frozen: Path, arm: str) -> Speed:
    command = [sys.executable, "-m", "dpdt.jobs.plan.measure", str(frozen), arm]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as err:
        raise DpdtError(
            f"--measure: three physical batches ({arm}) took more than {TIMEOUT_SECONDS} s. Use a GPU, a smaller "
            "shards.size, or a smaller train.physical_batch_size."
        ) from err
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"ended by signal {-done.returncode}"])[-1]
        hint = "Out of memory? Halve train.physical_batch_size: it changes speed alone."
        raise DpdtError(f"--measure: a physical batch ({arm}) fails: {last}. {hint}")
    return Speed(**json.loads(done.stdout.splitlines()[-1]))


def _measure_arm(study: Study, key: str) -> Speed:
    import torch

    from dpdt.training.device import choose_device, keep_memory, set_threads
    from dpdt.training.networks.build import build_model
    from dpdt.training.networks.trained import choose_trained, trains_head_alone
    from dpdt.training.networks.weights import head_of

    start, _, arm = key.rpartition("/")
    study = study.starts[start]
    device = choose_device(study.train.device)
    set_threads(study.train.num_threads)
    keep_memory(device)
    labels = len(study.study.labels)
    model = build_model(study.model, size=study.shards.size, folder=study.file.parent, num_outputs=labels).to(device)
    choose_trained(model, study.train.parameters)
    images = torch.rand(study.train.images_at_once, 1, study.shards.size, study.shards.size, device=device)
    if arm != "evaluate" and study.train.parameters != "all" and trains_head_alone(model):
        head: Any = head_of(model)[1]
        model, images = head, torch.rand(len(images), head.in_features, device=device)
    add, end = _evaluation(model) if arm == "evaluate" else _training(study, model, private=arm == "private")
    add(images)  # the first batch loads libraries
    end()
    begun, batches = _now(device), 0
    while batches < 2 or _now(device) - begun < SECONDS:
        add(images)
        batches += 1
    image_ms = (_now(device) - begun) / batches / len(images) * 1e3
    begun = _now(device)
    end()
    step_ms = (_now(device) - begun) * 1e3
    return Speed(key, image_ms, step_ms, _peak_gb(device), _name(device))


def _training(study: Study, model: Any, *, private: bool) -> tuple[Callable[[Any], object], Callable[[], object]]:
    """One physical batch, and the end of a logical one."""
    import torch

    from dpdt.privacy.clipping.engines import CLIPPING, GradientSum
    from dpdt.privacy.keystream import KeyStream
    from dpdt.training.batches import image_losses

    autocast = study.train.precision == "bf16"
    gradients: GradientSum = GradientSum(model, image_losses, autocast=autocast)
    if private:
        settings = study.privacy
        gradients = CLIPPING[settings.clipping](
            model,
            image_losses,
            max_grad_norm=settings.max_grad_norm,
            noise_multiplier=1.0,
            noise=KeyStream.fresh(),
            autocast=autocast,
            by_layer=settings.clip_scope == "layers",
        )
    optimizer = torch.optim.NAdam(model.parameters(), lr=1e-6)

    def add(images: Any) -> None:
        gradients.add(images, torch.zeros(len(images), len(study.study.labels), device=images.device))

    def end() -> None:
        gradients.release(expected_batch_size=study.train.expected_batch_size)
        optimizer.step()
        gradients.clear()

    return add, end


def _evaluation(model: Any) -> tuple[Callable[[Any], object], Callable[[], object]]:
    import torch

    model.eval()

    def add(images: Any) -> None:
        with torch.inference_mode():
            model(images)

    return add, lambda: None


def _now(device: "torch.device") -> float:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


def _peak_gb(device: "torch.device") -> float:
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_reserved() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _name(device: "torch.device") -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU threads ({platform.machine()})"


if __name__ == "__main__":
    print(json.dumps(asdict(_measure_arm(thaw_study(sys.argv[1]), sys.argv[2]))))
