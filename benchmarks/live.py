"""Rivals in processes of their own that stay alive, take turns over pipes, and are measured (Linux: fork and /proc)."""

import importlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

Case = TypeVar("Case")
Work = Callable[[int], int]  # asked for so many units of work, does about as many and returns how many they were

_TICKS = os.sysconf("SC_CLK_TCK")
_CALIBRATIONS = 24  # at most


@dataclass(frozen=True)
class Rival(Generic[Case]):
    """`prepare(case)` runs in every process; what is compiled belongs into the first call of what it returns."""

    label: str
    prepare: Callable[[Case], Work]
    whole: bool = False  # one process that uses all cores, instead of a process of one thread for every core
    pinned: bool = False  # every process to a core of its own, for libraries that would start a thread per core
    needs: str = ""  # a package that may not be installed


@dataclass(frozen=True)
class Turn:
    """What all processes of one rival did in one round."""

    rate: float  # units per second of wall-clock time
    cpu_rate: float  # units per second of CPU time, of all threads and child processes


@dataclass
class Team:
    """The processes of one rival, and what they did so far."""

    label: str
    processes: list[Any]
    pipes: list[Connection]
    units: int = 1  # asked of each process in a round
    first_call: float = 0.0  # seconds: what is compiled and warmed up once
    megabytes: float = 0.0  # most memory that one of the processes held, child processes included
    turns: list[Turn] = field(default_factory=list)

    def warm_up(self, seconds: float) -> None:
        """The first call, of one process after another so that it is timed alone, then rounds of about `seconds`."""
        walls = [self._ask([place], 1)[0][1] for place in range(len(self.pipes))]
        self.first_call = walls[0]
        for _ in range(_CALIBRATIONS):
            answers = self._ask(range(len(self.pipes)), self.units)
            wall, done = max(answer[1] for answer in answers), max(answer[0] for answer in answers)
            if wall > seconds / 3:
                break
            self.units = max(2 * self.units, int(done * min(8.0, seconds / wall / 2)))
        self.units = max(1, round(done * seconds / wall))

    def take_turn(self) -> None:
        """One round."""
        before = sum(_children_seconds(process.pid) for process in self.processes)
        answers = self._ask(range(len(self.pipes)), self.units)
        of_children = sum(_children_seconds(process.pid) for process in self.processes) - before
        cpu = sum(answer[2] for answer in answers) + of_children
        rate = sum(done / wall for done, wall, _ in answers)
        self.turns.append(Turn(rate, sum(answer[0] for answer in answers) / cpu))

    def _ask(self, places: Iterable[int], units: int) -> list[tuple[int, float, float]]:
        """(done, wall-clock seconds, CPU seconds) of each; memory is looked at while they work."""
        asked = [self.pipes[place] for place in places]
        for pipe in asked:
            pipe.send(units)
        open_answers = list(asked)
        while open_answers:
            ready = wait(open_answers, timeout=0.2)
            self.megabytes = max(self.megabytes, *(_megabytes(process.pid) for process in self.processes))
            open_answers = [pipe for pipe in open_answers if pipe not in ready]
        return [pipe.recv() for pipe in asked]


def started(rivals: Mapping[str, Rival[Case]], case: Case, cores: int) -> dict[str, Team]:
    """Start all processes and wait until each has prepared itself.

    Raises:
        EOFError: one of them failed, and said above why.
    """
    # Optimizers import dynamo at their first step, seconds of work: once here instead of in every process.
    importlib.import_module("torch._dynamo")
    teams = {name: Team(rival.label, [], []) for name, rival in rivals.items()}
    try:
        for name, rival in rivals.items():
            for place in range(1 if rival.whole else cores):
                _start(teams[name], rival, case, cores, place)
        for team in teams.values():
            for pipe in team.pipes:
                pipe.recv()
    except BaseException:
        stop(teams.values())
        raise
    return teams


def _start(team: Team, rival: Rival[Case], case: Case, cores: int, place: int) -> None:
    """One more process."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    threads, core = cores if rival.whole else 1, place if rival.pinned else None
    process = context.Process(target=_serve, args=(theirs, os.getpid(), rival.prepare, case, threads, core))
    process.start()
    theirs.close()  # theirs alone now, so that their end is noticed here
    team.processes.append(process)
    team.pipes.append(ours)


def stop(teams: Iterable[Team]) -> None:
    """End all processes at once: they own nothing that could be left half done."""
    for team in teams:
        for process, pipe in zip(team.processes, team.pipes, strict=True):
            process.kill()
            process.join()
            pipe.close()


def _serve(
    pipe: Connection, parent: int, prepare: Callable[[Case], Work], case: Case, threads: int, core: int | None
) -> None:
    """What a process does until it is stopped or its parent is gone."""
    torch.set_num_threads(threads)
    if core is not None:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core]})
    work = prepare(case)
    pipe.send("ready")
    while True:
        while not pipe.poll(1.0):
            if os.getppid() != parent:
                return
        units = pipe.recv()
        wall, cpu = time.perf_counter(), time.process_time()
        done = work(units)
        pipe.send((done, time.perf_counter() - wall, time.process_time() - cpu))


def _tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:  # grows on the way
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, path.read_text().split())
            except OSError:  # it has just ended
                continue
    return found


def _children_seconds(pid: int) -> float:
    """CPU time of all descendants, of those that have ended too."""
    ticks = 0
    for process in _tree(pid):
        try:
            numbers = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, numbers[13:15] if process == pid else numbers[11:15]))
    return ticks / _TICKS


def _megabytes(pid: int) -> float:
    """The most that the process and those of its descendants that are alive have held, each for itself."""
    kilobytes = 0
    for process in _tree(pid):
        try:
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
        except OSError:
            continue
        kilobytes += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return kilobytes / 1024


def take_turns(teams: Sequence[Team], rounds: int, before: Callable[[], None] = lambda: None) -> None:
    """Rounds in which every rival has one turn, another one first in every round."""
    for number in range(rounds):
        before()
        first = number % len(teams)
        for team in (*teams[first:], *teams[:first]):
            team.take_turn()
