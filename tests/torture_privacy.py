"""Kill trainings at random places and look whether the ledger still counts every noisy step: `make torture-privacy`.

A parent that has torch loaded forks one victim after another, so that a kill costs a fraction of a second. Each victim
resumes the same run and is ended in one of these ways, until the run is finished and the next one begins:

- `line`: SIGKILL before a random line of a random function of dpdt (in the step, in the checkpoint, between reserve and
  step: every function that a training calls is as likely as any other, and every pass through it too);
- `time`: SIGKILL at a random moment, also inside of torch and the operating system;
- `disk`: no file may grow past a random size (RLIMIT_FSIZE), which cuts writes in two as a full disk does;
- `stop`: SIGTERM or SIGUSR2 at a random moment: an orderly stop, which must lose no budget.

The victims report through a pipe the SHA-256 of all noise that they draw, before it is used. All reported noise counts
as released. After every end the parent checks `verify`.
"""

import argparse
import json
import math
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch

import dpdt
import dpdt.training.loop
from dpdt.base.files import read_json
from dpdt.errors import DpdtError
from dpdt.privacy.accounting import epsilon
from dpdt.privacy.clipping.engines import ClippedGradientSum
from dpdt.privacy.keystream import KeyStream
from dpdt.privacy.ledger import Ledger, read_spent_steps
from dpdt.runs.checkpoint import load_checkpoint
from dpdt.runs.state import run_done
from dpdt.study import Cell, Study, load_study
from dpdt.study.paths import RunPaths
from dpdt.training.train import train
from tests.recorded_noise import recording
from tests.small_data import PATIENTS, STUDY, write_domain

CELL: Final = Cell("uka", 8.0, 0)
WAYS: Final = ("line", "line", "time", "disk", "stop")
PACKAGE: Final = str(Path(dpdt.__file__).parent)
# Where a training keeps its books; a kill while it only reads its settings costs time and tests nothing.
FILES: Final = (
    "bookkeeping",
    "checkpoint",
    "engines",
    "ghost",
    "files",
    "gradient_sum",
    "hooks",
    "keystream",
    "ledger",
    "loop",
    "prepare",
    "reader",
    "resume",
    "config",
    "metrics_log",
    "state",
    "sampling",
    "stop",
    "train",
)
EXHAUSTED: Final = "no checkpoint is left"  # the one refusal that kills alone may lead to
Place = tuple[str, str]


@dataclass
class Life:
    """All that is known of the present run, over all its victims."""

    paths: RunPaths
    noise: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    noise_before: int = 0  # of all victims but the last
    spent_before: int = 0


def plant(fault: str) -> None:
    """Break the training on purpose, to see that the torture finds it.

    - `replay`: after a crash the checkpoint's streams are used again, as if nothing had been drawn since.
    - `unbooked`: the ledger tells of a block only when the next one is reserved, and is not read again at the end.
    """
    if fault == "replay":

        def streams(plan: object, checkpoint: dict[str, Any] | None, **_books: object) -> dict[str, KeyStream]:
            names = ("sampling", "noise")
            if checkpoint is None:
                return {name: KeyStream.fresh() for name in names}
            return {name: KeyStream.from_state(checkpoint[name]) for name in names}

        dpdt.training.loop.open_streams = streams
    if fault == "unbooked":
        plain = Ledger._append
        waiting: dict[int, dict[str, Any]] = {}

        def append(self: Ledger, entry: dict[str, Any]) -> None:
            if (before := waiting.pop(id(self), None)) is not None:
                plain(self, before)
            if entry["event"] == "reserve":
                waiting[id(self)] = entry
            else:
                plain(self, entry)

        Ledger._append = append  # type: ignore[method-assign]
        Ledger.read_again = lambda self: self.spent_steps  # type: ignore[method-assign]


def make_study(folder: Path) -> Study:
    """A small study without pretraining, a reserve of four steps and a checkpoint in two."""
    public = '[domains.mimic]\nroot = "raw/mimic"\n'
    (folder / "study.toml").write_text(STUDY.replace(public, ""))
    study = load_study(folder / "study.toml")
    write_domain(study, "uka", patients=PATIENTS)
    return study


def tell_noise(pipe: int) -> None:
    """Let the noise of every step be recorded before it is used."""
    ClippedGradientSum.release = recording(lambda digest: os.write(pipe, digest.encode() + b"\n"))  # type: ignore[method-assign]


def trace_lines(on_line: Any) -> None:
    """Call `on_line(place)` before every line of dpdt that is run, place being (file, function)."""

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            on_line((Path(code.co_filename).stem, code.co_qualname))
        return trace

    sys.settrace(trace)


def kill_before(place: Place, count: int) -> None:
    """Kill this process before a line of a function (file, name) is run, after so many others of it."""
    left = [count]

    def kill(found: Place) -> None:
        if found == place:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    trace_lines(kill)


def victim(study: Study, way: str, pipe: int, place: Place | None, count: int, limit: int) -> None:
    """Train until the end, whichever comes; the process does not return."""
    tell_noise(pipe)
    if place is not None:
        kill_before(place, count)
    if way == "disk":
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        train(study, CELL)
    except (DpdtError, OSError) as err:
        os.write(pipe, f"error {err}\n".encode())
    except BaseException as err:  # noqa: BLE001  it must not return into the parent's code
        os.write(pipe, f"unexpected {err!r}\n".encode())
    os._exit(0)


def live_and_die(
    study: Study, life: Life, way: str, places: Counter[Place], chance: random.Random, usual: float
) -> str:
    """Fork a victim, end it, read what it told; the way it ended."""
    reader, pipe = os.pipe()
    place = chance.choice(sorted(places)) if way == "line" else None
    count = chance.randrange(places[place]) if place else 0
    limit = int(10 ** chance.uniform(2, 6.5))
    child = os.fork()
    if not child:
        os.close(reader)
        victim(study, way, pipe, place, count, limit)
    os.close(pipe)
    if way in ("time", "stop"):
        time.sleep(chance.uniform(0, usual))
        number = signal.SIGKILL if way == "time" else chance.choice([signal.SIGTERM, signal.SIGUSR2])
        os.kill(child, number)
    with os.fdopen(reader) as told:
        lines = told.read().splitlines()
    _, status = os.waitpid(child, 0)
    errors = [line for line in lines if line.startswith("error ")]
    life.noise += [line for line in lines if len(line) == 64]
    unexpected = [line for line in lines if line.startswith("unexpected ")]
    if unexpected:
        end = unexpected[0]
    elif os.WIFSIGNALED(status):
        end = "killed" if os.WTERMSIG(status) == signal.SIGKILL else "stopped"
    elif errors:
        end = "exhausted" if EXHAUSTED in errors[0] else "full disk" if way == "disk" else errors[0]
    else:
        end = "finished"
    life.ends.append(f"{way}: {end}" + (f" in {place[0]}.{place[1]}" if place and end == "killed" else ""))
    return end


def verify(study: Study, life: Life, seen: set[str], *, orderly: bool) -> None:
    """What must hold after any end; an AssertionError names the run and all its ends."""
    story = f"{life.paths.folder}: {life.ends}"
    taken = len(life.noise)
    assert len(set(life.noise)) == taken, f"noise was drawn twice. {story}"
    assert not seen & set(life.noise), f"noise of another run was drawn again. {story}"
    if not life.paths.ledger.exists() or not life.paths.ledger.read_bytes():
        assert taken == 0, f"steps without a ledger. {story}"
        return
    if taken == 0 and b"\n" not in life.paths.ledger.read_bytes():
        return  # its very first line was cut in two, no step was taken
    spent = read_spent_steps(life.paths.ledger)
    assert taken <= spent, f"{taken} noisy steps, {spent} in the ledger. {story}"
    config = read_json(life.paths.config)
    assert spent <= config["num_steps"], f"more than the budget: {spent}. {story}"
    shared = {"sample_rate": config["sample_rate"], "delta": study.privacy.delta}
    shared["noise_multiplier"] = config["noise_multiplier"] / (1 + config["rounding_allowance"])
    used = epsilon(num_steps=taken, **shared)
    if taken:
        reported = read_json(life.paths.state)["epsilon"]
        assert reported >= used, f"state.json says {reported}, used were {used}. {story}"
        stated = read_json(life.paths.privacy)["epsilon"]
        assert stated >= used, f"privacy.json says {stated}, used were {used}. {story}"
    assert used <= CELL.target_epsilon, f"past the target: {used}. {story}"
    if orderly:
        assert spent - life.spent_before == taken - life.noise_before, f"an orderly stop lost budget. {story}"


def torture(study: Study, *, kills: int, seed: int) -> dict[str, Any]:
    """End so many victims; count how.

    Raises:
        AssertionError: A check failed.
    """
    chance = random.Random(seed)
    places, usual = rehearse(study)
    ends: Counter[str] = Counter()
    killed_in: Counter[str] = Counter()
    seen: set[str] = set()
    runs, taken, spent_of_finished, begun = 0, 0, [], time.perf_counter()
    life = new_life(study)
    while sum(count for end, count in ends.items() if end != "finished") < kills:
        life.spent_before, life.noise_before = spent_of(life), len(life.noise)
        way = chance.choice(WAYS)
        end = live_and_die(study, life, way, places, chance, usual)
        ends[end if end in ("killed", "stopped", "full disk", "exhausted", "finished") else "error"] += 1
        assert end in ("killed", "stopped", "full disk", "exhausted", "finished"), life.ends
        if end == "killed" and " in " in life.ends[-1]:
            killed_in[life.ends[-1].split(" in ")[1]] += 1
        verify(study, life, seen, orderly=end == "stopped")
        if end in ("finished", "exhausted"):
            if end == "finished":
                assert run_done(study, life.paths.run_id), life.ends
                left = [path.name for path in life.paths.checkpoints.iterdir()]
                assert left == ["final.pt"], f"keys of noise are left: {left}. {life.ends}"
                spent_of_finished.append(read_json(life.paths.state)["epsilon"])
            runs, taken = runs + 1, taken + len(life.noise)
            seen |= set(life.noise)
            life = new_life(study)
    taken += len(life.noise)
    return {
        "ends": dict(ends),
        "places": len(killed_in),
        "runs": runs,
        "noisy_steps": taken,
        "max_epsilon": max(spent_of_finished, default=math.nan),
        "target_epsilon": CELL.target_epsilon,
        "seconds": time.perf_counter() - begun,
        "killed_in": dict(killed_in.most_common()),
    }


def spent_of(life: Life) -> int:
    """Steps in the ledger, 0 before there is one."""
    try:
        return read_spent_steps(life.paths.ledger)
    except DpdtError:
        return 0


def new_life(study: Study) -> Life:
    """Put the last run aside, so that the next victim begins a new one."""
    paths = study.paths.run(study.run_id(CELL))
    if paths.folder.exists():
        number = len(list(study.folder.glob("done-*")))
        paths.folder.rename(study.folder / f"done-{number}")
    return Life(paths)


def rehearse(study: Study) -> tuple[Counter[Place], float]:
    """Train once undisturbed in this process: lines of every function that is run, and the seconds of a training."""
    train(study, CELL)  # loads what is loaded late, and fills the accountant's cache for all victims
    new_life(study)
    places: Counter[Place] = Counter()
    begun = time.perf_counter()
    train(study, CELL)
    usual = time.perf_counter() - begun
    new_life(study)
    trace_lines(lambda place: places.update([place] if place[0] in FILES else []))
    try:
        train(study, CELL)
    finally:
        sys.settrace(None)
    paths = new_life(study).paths
    assert load_checkpoint(paths.checkpoints) is None
    return places, usual


def tell(figures: dict[str, Any], output: Path | None) -> None:
    """Print the figures, and write them where asked."""
    text = json.dumps(figures, indent=2)
    print(text)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text + "\n")


def main() -> None:
    """Print a table, and write the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plant", choices=["replay", "unbooked"], default="", help="a fault, to see it found")
    parser.add_argument("--output", type=Path, help="a JSON file")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    plant(options.plant)
    with tempfile.TemporaryDirectory() as folder:
        figures = torture(make_study(Path(folder)), kills=options.kills, seed=options.seed)
    tell(figures, options.output)


if __name__ == "__main__":
    main()
