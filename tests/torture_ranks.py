"""Stop and kill trainings of several processes, and look whether anything is lost: `make torture-ranks`.

A parent that has torch loaded forks two to four ranks at a time, which train one run over gloo. A rank that is stopped
ends as processes do, through the end of the interpreter; one that lost another ends at once, as `dpdt.jobs.slurm.call`
has it: in a fork the end of the interpreter took more than 30 s in 2 of about 600. Two tortures:

- `stops`: the ranks get SIGUSR2 or SIGTERM at a random moment, each up to half a second later than the one before, or
  only one of them gets it. All must end with 75 and no thread of torch.distributed left; no budget is lost. The
  trainings are seeded, and must end with the bits of undisturbed ones.
- `kills`: one rank gets SIGKILL at a random moment, or the leader gets it before a random line of dpdt (in the
  checkpoint, in the ledger); the others must end within seconds. The next attempt has another number of ranks. The
  books are those of `torture_privacy`: every noisy step of any rank is in the ledger, and no noise is drawn twice.
"""

import argparse
import contextlib
import faulthandler
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

import torch

from dpdt.base.files import read_json
from dpdt.errors import LostProcessError
from dpdt.runs.state import run_done
from dpdt.study import Study
from dpdt.study.paths import RunPaths
from dpdt.training import ranks
from dpdt.training.stop import StopFlag
from dpdt.training.train import train
from tests.torture_privacy import (
    CELL,
    Life,
    Place,
    kill_before,
    make_study,
    new_life,
    rehearse,
    spent_of,
    tell,
    tell_noise,
    verify,
)

STOPPED: Final = 75
LOST: Final = 3
LINGERING: Final = 4
SIZES: Final = (2, 3, 4)
SIGNALS: Final = (signal.SIGUSR2, signal.SIGTERM)
# Seconds in which ranks end that were told to stop, and those that lost another: on a machine that may be busy.
PATIENCE: Final = 120.0
SECONDS_ALONE: Final = 30.0


@dataclass
class Attempt:
    """Ranks that train together: their process ids, and the pipes that they tell their noise through."""

    ranks: list[int]
    told: list[int]

    def wait_until_ready(self) -> None:
        """Wait until each of them listens to signals, or has ended."""
        for reader in self.told:
            os.read(reader, len(READY))


READY: Final = b"ready\n"
MET: Final = b"met\n"


def rank_process(study: Study, pipe: int, *, seeded: bool, place: Place | None, count: int) -> int:
    """Train as one rank; the code to end with."""

    def ignore() -> None:  # a signal that comes after the last file is written
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        ignore()
        raise SystemExit(STOPPED)

    for number in SIGNALS:
        signal.signal(number, stop)
    faulthandler.register(signal.SIGUSR1)
    joined = ranks.joined

    @contextlib.contextmanager
    def ready(flag: StopFlag) -> Iterator[Any]:
        os.write(pipe, READY)
        with joined(flag) as together:
            os.write(pipe, MET)
            yield together

    train.__globals__["joined"] = ready
    tell_noise(pipe)
    if place is not None:
        kill_before(place, count)
    try:
        train(study, CELL, seeded_randomness=seeded)
    except LostProcessError:
        os._exit(LOST)
    except SystemExit:
        if threads_of_torch():
            return LINGERING
        raise
    ignore()
    return 0


def threads_of_torch() -> list[str]:
    """Threads of torch.distributed that run in this process."""
    names = [Path(f"/proc/self/task/{thread}/comm").read_text() for thread in os.listdir("/proc/self/task")]
    return [name for name in names if "gloo" in name or "tcpstore" in name]


def start(study: Study, size: int, *, seeded: bool, place: Place | None = None, count: int = 0) -> Attempt:
    """Fork the ranks of an attempt. A rank leaves by SystemExit: the interpreter ends as it does in a job."""
    attempt, port_file = Attempt([], []), f"{study.file.parent}/port-{time.time_ns()}"
    variables = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", ranks.PORT_FILE: port_file}
    for rank in range(size):
        reader, pipe = os.pipe()
        child = os.fork()
        if not child:
            os.environ.update(variables, RANK=str(rank))
            raise SystemExit(rank_process(study, pipe, seeded=seeded, place=None if rank else place, count=count))
        os.close(pipe)
        attempt.ranks.append(child)
        attempt.told.append(reader)
    return attempt


def end(attempt: Attempt, *, seconds: float) -> tuple[list[int], list[str]]:
    """Exit codes of all ranks (minus the signal of one that was killed), and the noise that any of them drew.

    Ranks that wait for one which died before all had met are killed, as srun does it (--kill-on-bad-exit).

    Raises:
        AssertionError: They had met and did not end in time, or one drew its noise twice.
    """
    codes: dict[int, int] = {}
    last = time.monotonic() + seconds
    late = False
    while len(codes) < len(attempt.ranks):
        for rank in attempt.ranks:
            if rank not in codes and (found := os.waitpid(rank, os.WNOHANG))[0]:
                codes[rank] = os.waitstatus_to_exitcode(found[1])
        if time.monotonic() > last and not late:
            late = True
            for rank in set(attempt.ranks) - set(codes):
                os.kill(rank, signal.SIGUSR1)  # what it waits for, on standard error
                time.sleep(1)
                os.kill(rank, signal.SIGKILL)
        time.sleep(0.01)
    noise: dict[str, None] = {}
    met = []
    for reader in attempt.told:
        with os.fdopen(reader) as told:
            words = told.read().split()
        met.append(MET.decode().strip() in words)
        lines = [line for line in words if len(line) == 64]
        assert len(set(lines)) == len(lines), "a rank drew its noise twice"
        noise.update(dict.fromkeys(lines))
    assert not (late and all(met)), f"ranks did not end within {seconds} s: {codes}"
    return [codes[rank] for rank in attempt.ranks], list(noise)


def tell_to_stop(attempt: Attempt, chance: random.Random) -> None:
    """Send the ranks a signal: to all of them, each a little later than the one before, or to one alone."""
    number = chance.choice(SIGNALS)
    for rank in attempt.ranks if chance.random() < 0.7 else [chance.choice(attempt.ranks)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rank, number)
        time.sleep(chance.choice([0, 0, chance.uniform(0, 0.5)]))


def stops(study: Study, *, number: int, chance: random.Random) -> dict[str, Any]:
    """Stop trainings in good order so often; each ends with the bits of an undisturbed one of as many ranks."""
    rehearse(study)  # loads what is loaded late, for all ranks
    undisturbed: dict[int, tuple[list[torch.Tensor], float]] = {}
    done, with_steps, trainings = 0, 0, 0
    while done < number:
        size = chance.choice(SIZES)
        if size not in undisturbed:
            undisturbed[size] = train_undisturbed(study, size)
        (wanted, usual), life = undisturbed[size], Life(study.paths.run(study.run_id(CELL)))
        while not run_done(study, life.paths.run_id):
            before = spent_of(life)
            attempt = start(study, size, seeded=True)
            attempt.wait_until_ready()
            time.sleep(chance.uniform(0, usual))
            tell_to_stop(attempt, chance)
            codes, noise = end(attempt, seconds=PATIENCE)
            life.ends.append(f"stop of {size}: {codes}")
            if run_done(study, life.paths.run_id):
                break  # the signal came too late
            assert codes == [STOPPED] * size, life.ends
            assert spent_of(life) - before == len(noise), f"an orderly stop lost budget. {life.ends}"
            done, with_steps = done + 1, with_steps + bool(noise)
        found = weights_of(life.paths)
        assert all(map(torch.equal, found, wanted)), f"other bits than an undisturbed training. {life.ends}"
        new_life(study)
        trainings += 1
    return {"stops": done, "with_steps": with_steps, "trainings": trainings}


def train_undisturbed(study: Study, size: int) -> tuple[list[torch.Tensor], float]:
    """The weights of a training that nobody stops, and its seconds."""
    attempt = start(study, size, seeded=True)
    attempt.wait_until_ready()
    begun = time.monotonic()
    codes, _ = end(attempt, seconds=PATIENCE)
    seconds = time.monotonic() - begun
    assert codes == [0] * size, codes
    weights = weights_of(study.paths.run(study.run_id(CELL)))
    new_life(study)
    return weights, seconds


def weights_of(paths: RunPaths) -> list[torch.Tensor]:
    """A finished run's weights."""
    return list(torch.load(paths.weights, weights_only=True).values())


def kills(study: Study, *, number: int, chance: random.Random) -> dict[str, Any]:
    """Kill one rank so often, and look at the books and at the others."""
    places, usual = rehearse(study)
    ends: Counter[str] = Counter()
    seen: set[str] = set()
    slowest, highest, taken = 0.0, 0.0, 0
    life = Life(study.paths.run(study.run_id(CELL)))
    while ends["killed"] < number:
        life.spent_before, life.noise_before = spent_of(life), len(life.noise)
        size, way = chance.choice(SIZES), chance.choice(["line", "time", "early"])
        place = chance.choice(sorted(places)) if way == "line" else None
        attempt = start(study, size, seeded=False, place=place, count=chance.randrange(places[place]) if place else 0)
        victim = attempt.ranks[0]
        if way != "line":
            victim = chance.choice(attempt.ranks)
            if way == "time":
                attempt.wait_until_ready()
            time.sleep(chance.uniform(0, 3 * usual))
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        seconds, codes, noise = watch(attempt, victim)
        if codes.count(-signal.SIGKILL) == 1:  # the others ended by themselves
            slowest = max(slowest, seconds)
        life.noise += noise
        killed = -signal.SIGKILL in codes
        ends["met nobody"] += codes.count(-signal.SIGKILL) > 1
        life.ends.append(f"{way} {place} of {size}: {codes}")
        assert set(codes) <= {0, 1, LOST, -signal.SIGKILL}, life.ends
        verify(study, life, seen, orderly=False)
        ends["killed" if killed else "finished"] += 1
        finished = run_done(study, life.paths.run_id)
        assert killed or finished or 1 in codes, life.ends
        if finished or 1 in codes:
            if finished:
                highest = max(highest, read_json(life.paths.state)["epsilon"])
            taken, seen = taken + len(life.noise), seen | set(life.noise)
            life = new_life(study)
    figures = {
        "kills": ends["killed"],
        "before_all_had_met": ends["met nobody"],
        "noisy_steps": taken + len(life.noise),
        "max_epsilon": highest,
    }
    return {**figures, "target_epsilon": CELL.target_epsilon, "slowest_end_s": slowest}


def watch(attempt: Attempt, victim: int) -> tuple[float, list[int], list[str]]:
    """Seconds from the victim's end to that of the last rank; all ranks' codes and noise."""
    os.waitid(os.P_PID, victim, os.WEXITED | os.WNOWAIT)
    begun = time.monotonic()
    codes, noise = end(attempt, seconds=SECONDS_ALONE)
    return time.monotonic() - begun, codes, noise


def main() -> None:
    """Print the figures, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stops", type=int, default=100)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="a JSON file")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())  # no `with`: a rank leaves through these lines too
    begun, chance, figures = time.monotonic(), random.Random(options.seed), {}
    for name, torture, number in (("stops", stops, options.stops), ("kills", kills, options.kills)):
        if number:
            (folder / name).mkdir()
            figures[name] = torture(make_study(folder / name), number=number, chance=chance)
    shutil.rmtree(folder)
    tell({**figures, "seconds": time.monotonic() - begun}, options.output)


if __name__ == "__main__":
    main()
