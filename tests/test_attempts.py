"""The attempts of a job."""

from pathlib import Path

from dpdt.jobs.attempts import Attempt, attempts_file, begin_attempt, last_attempt, recent_attempts, stop_attempt


def test_the_newest_attempt_counts_and_says_why_it_stopped(tmp_path: Path) -> None:
    file = attempts_file(tmp_path, "12_3")
    assert last_attempt(file) is None
    first, second = Attempt(1, "node1", 1.0, None), Attempt(2, "node4", 2.0, 40)
    begin_attempt(file, first)
    stop_attempt(file, first, "preempted")
    assert last_attempt(file) == Attempt(1, "node1", 1.0, None, "preempted")
    begin_attempt(file, second)
    assert last_attempt(file) == second


def test_a_line_that_a_kill_cut_off_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "attempts"
    begin_attempt(file, Attempt(1, "node1", 1.0, None))
    with file.open("a") as stream:
        stream.write('{"attempt": 2, "ho')
    assert last_attempt(file) == Attempt(1, "node1", 1.0, None)


def test_many_attempts_are_read_from_the_end(tmp_path: Path) -> None:
    file = tmp_path / "attempts"
    for number in range(1, 301):
        begin_attempt(file, Attempt(number, "node1", float(number), number))
        stop_attempt(file, Attempt(number, "node1", float(number), number), "SIGTERM")
    found = last_attempt(file)
    assert found is not None
    assert (found.number, found.stopped) == (300, "SIGTERM")
    numbers = [attempt.number for attempt in recent_attempts(file)]
    assert numbers[:12] == list(range(300, 288, -1))
