"""`dpdt doctor`: what of this machine is good, worth knowing or bad for dpdt, each with what to do."""

import contextlib
import hashlib
import os
import platform
import shutil
import sys
import tempfile
import time
import urllib.request
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Final

from dpdt.base.files import exclusive_lock, nearest_folder, sha256_file
from dpdt.base.machine import __version__, cpu_flags, free_memory, image_digest
from dpdt.errors import DpdtError
from dpdt.jobs.doctor.finding import Check
from dpdt.jobs.raw_data import lost_data
from dpdt.study import Study
from dpdt.study.networks import NETWORKS

__all__ = ["check_machine"]

TRIED_BYTES: Final = 64 << 20
SLOW_MB_S: Final = 100
LITTLE_DISK_GB: Final = 5
LITTLE_MEMORY_GB: Final = 4
LITTLE_SHARED_GB: Final = 0.06
CSRC: Final = Path(__file__).parents[3] / "csrc"
"""The core's sources, in a checkout."""


def check_machine(study: Study | None = None) -> list[Check]:
    """Look at everything that dpdt needs on one machine.

    Args:
        study: Where given, its raw data is looked for, and its disk and MLflow server are looked at instead of the
            present folder's.

    Returns:
        Findings with state `good`, `note` (worth knowing) or `bad` (something will fail).
    """
    folder = nearest_folder(study.folder if study else Path.cwd())
    return [
        _python(),
        _libraries(study),
        _core(),
        _processor(),
        _memory(),
        _gpu(),
        _disk(folder, wanted=study is not None),
        check_locks(folder, wanted=study is not None),
        _shared_memory(),
        _slurm(),
        _mlflow(study),
        _containers(),
        *([] if study is None else _data(study)),
    ]


def _data(study: Study) -> list[Check]:
    """Whether each domain's root and lists are there, as far as they are still needed."""
    lost = lost_data(study)
    found = {
        domain: lost.get(domain, f"{study.root(domain)}: folder and lists are there, or read already")
        for domain in study.used_domains
    }
    return [Check(f"data {domain}", "bad" if domain in lost else "good", text) for domain, text in found.items()]


def _python() -> Check:
    found = (
        f"Python {platform.python_version()} ({sys.executable}), dpdt {__version__}"  # an older one cannot come here
    )
    return Check("Python", "good", found)


def _libraries(study: Study | None) -> Check:
    """What dpdt requires, for named networks too where the study has one, against what is installed."""
    from packaging.requirements import Requirement

    wrong = []
    extra = "networks" if study and any(view.model.name in NETWORKS for view in study.views) else ""
    needed = [Requirement(text) for text in requires("dpdt") or ()]
    needed = [one for one in needed if one.marker is None or one.marker.evaluate({"extra": extra})]
    for one in needed:
        try:
            if not one.specifier.contains(version(one.name), prereleases=True):
                wrong.append(f"{one.name} {version(one.name)}, expected {one.specifier}")
        except PackageNotFoundError:
            wrong.append(f"{one.name} is missing")
    if wrong:
        how = f" (with the extra `{extra}`: pip install 'dpdt[{extra}]')" if extra else ""
        return Check("libraries", "bad", f"{'; '.join(wrong)}. `make install` puts the tested versions there{how}.")
    shown = ", ".join(f"{name} {version(name)}" for name in ("torch", "opacus", "dp-accounting", "numpy"))
    return Check("libraries", "good", f"all {len(needed)} are there: {shown}, …")


def _core() -> Check:
    try:
        from dpdt import _core as core
    except ImportError as err:
        return Check("C++ core", "bad", f"cannot be loaded ({err}). `make install` builds it.")
    codecs = core.codecs()
    if core.__version__ != __version__:
        found = f"is of version {core.__version__}, dpdt of {__version__}"
        return Check("C++ core", "bad", f"{found}. `make install` rebuilds it.")
    if _built_of_others(Path(core.__file__)):
        return Check(
            "C++ core", "bad", f"was not built of the files of {CSRC} as they are. `make install` rebuilds it."
        )
    return Check("C++ core", "good", ", ".join(f"{name}: {library}" for name, library in codecs.items()))


def _built_of_others(core: Path) -> bool:
    """Whether the checkout's sources are not those whose hash the build (CMakeLists.txt) has put beside the core."""
    stamp = core.with_name("core_sources.sha256")
    hashes = "".join(sha256_file(file) for file in sorted(CSRC.glob("*.[ch]pp")))
    return bool(hashes) and stamp.exists() and stamp.read_text() != hashlib.sha256(hashes.encode()).hexdigest()


def _processor() -> Check:
    flags = cpu_flags()
    vectors = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_tile", "asimd", "sve") if name in flags]
    mine, all_cores = len(os.sched_getaffinity(0)), os.cpu_count() or 0
    found = f"{platform.machine()}, {mine} of {all_cores} cores for this process, {', '.join(vectors) or 'no vectors'}"
    with contextlib.suppress(ImportError):
        from dpdt.training.device import instruction_set

        found += f"; computes with: {instruction_set()}"
    if platform.machine() == "x86_64" and "avx2" not in flags:
        return Check("processor", "note", f"{found}. Without AVX2, PyTorch on the CPU is slow: use a newer machine.")
    return Check("processor", "good", found)


def _memory() -> Check:
    try:
        free = free_memory()
    except OSError:
        return Check("memory", "note", "unknown here; a training on CPUs takes 1 to 8 GB")
    found = f"{free / 1e9:.1f} GB can be had"
    if free < LITTLE_MEMORY_GB * 1e9:
        return Check(
            "memory", "note", f"{found}. Set cluster.local_parallelism = 1 and a small train.physical_batch_size."
        )
    return Check("memory", "good", found)


def _gpu() -> Check:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        return Check("GPU", "good", f"{len(names)} × {names[0]}, {memory:.0f} GB, CUDA {torch.version.cuda}")
    if shutil.which("nvidia-smi") is None:
        return Check("GPU", "note", "none: the demo and small studies run on CPUs, real data wants a GPU")
    if torch.version.cuda is None:
        todo = "pip install torch --force-reinstall, without an index of CPU builds"
        return Check(
            "GPU", "bad", f"this machine has NVIDIA's driver, but torch {torch.__version__} is a CPU build: {todo}"
        )
    return Check(
        "GPU", "bad", f"torch (CUDA {torch.version.cuda}) sees no GPU, nvidia-smi is there. Run it: is the driver old?"
    )


def _disk(folder: Path, *, wanted: bool) -> Check:
    """Free space, and the speed of a file of 64 MB."""
    free = shutil.disk_usage(folder).free / 1e9
    try:
        with tempfile.TemporaryFile(dir=folder) as stream:
            begun = time.perf_counter()
            stream.write(os.urandom(1 << 20) * (TRIED_BYTES >> 20))
            stream.flush()
            os.fsync(stream.fileno())
            speed = TRIED_BYTES / 1e6 / (time.perf_counter() - begun)
    except OSError as err:
        return Check(
            "disk",
            "bad" if wanted else "note",
            f"{folder}: cannot be written ({err.strerror}). Work in a folder of your own.",
        )
    found = f"{folder}: {free:.0f} GB free, writes {speed:.0f} MB/s"
    if free < LITTLE_DISK_GB:
        return Check("disk", "note", f"{found}. Shards of 100,000 images of 512² take 26 GB: set study.folder.")
    if speed < SLOW_MB_S:
        return Check("disk", "note", f"{found}: slow. On a cluster set cluster.scratch to a disk of the node.")
    return Check("disk", "good", found)


def check_locks(folder: Path, *, wanted: bool = True) -> Check:
    """Locks keep two tasks from spending one budget."""
    try:
        with tempfile.TemporaryDirectory(dir=folder) as inside, exclusive_lock(Path(inside) / "lock", blocking=False):
            pass
    except (OSError, DpdtError) as err:
        todo = "A study needs flock: another file system, or Lustre mounted with -o flock."
        return Check("file locks", "bad" if wanted else "note", f"{folder}: {err}. {todo}")
    return Check("file locks", "good", f"flock works in {folder}")


def _shared_memory() -> Check:
    shared = Path("/dev/shm")
    if not shared.is_dir():
        return Check("shared memory", "note", "no /dev/shm: several GPUs at one training (NCCL) need it")
    size = shutil.disk_usage(shared).total / 1e9
    if size <= LITTLE_SHARED_GB * 1.2:
        todo = "start the container with --shm-size 2g for several GPUs at one training"
        return Check("shared memory", "note", f"/dev/shm has {size * 1e3:.0f} MB: {todo}")
    return Check("shared memory", "good", f"/dev/shm has {size:.1f} GB")


def _slurm() -> Check:
    if shutil.which("sbatch") is None:
        return Check("Slurm", "note", "no sbatch here: --cluster local works; for a cluster run dpdt on its login node")
    return Check("Slurm", "good", "sbatch is there; `dpdt doctor STUDY --cluster` checks what the jobs will need")


def _mlflow(study: Study | None) -> Check:
    uri = study.tracking.uri if study else None
    try:
        found = f"MLflow {version('mlflow')}"
    except PackageNotFoundError:
        return Check("MLflow", "bad", "not installed. `make install` does it.")
    if uri is None or not uri.startswith(("http://", "https://")):
        return Check("MLflow", "good", f"{found}, runs go to {uri or 'a file of the study'}")
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=10):
            return Check("MLflow", "good", f"{found}, the server {uri} answers")
    except (OSError, ValueError) as err:
        todo = "Start it, or remove tracking.uri. Trainings go on without; `dpdt sync` catches up"
        return Check("MLflow", "note", f"{found}, but {uri} does not answer ({err}). {todo}.")


def _containers() -> Check:
    tools = [name for name in ("docker", "podman", "apptainer") if shutil.which(name)]
    inside = image_digest()
    if inside:
        return Check("containers", "good", f"this is dpdt's image {inside}")
    if not tools:
        return Check("containers", "note", "no docker, podman or apptainer: only needed for dpdt's image")
    return Check("containers", "good", f"{', '.join(tools)} can run dpdt's image (docs/containers.md)")
