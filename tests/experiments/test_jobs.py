"""Jobs: order, devices, failures, and that nothing is left running. The commands are Python programs of a line."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lrkd.errors import UserError
from lrkd.experiments import jobs as module
from lrkd.experiments.jobs import Job, run_jobs, slots, start, tail

WAIT = (
    "import os, time\nfor _ in range(2000):\n    if os.path.exists({0!r}): break\n    time.sleep(0.01)\nelse: exit(3)\n"
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs jobs given as name: (programs, names needed); how they ended, by name."""
    monkeypatch.setattr(module, "PROGRAM", (sys.executable, "-c"))
    monkeypatch.setattr(module, "LOOK_EVERY", 0.01)
    monkeypatch.chdir(tmp_path)

    def job(name, programs, needs):
        return Job(name, lambda: iter([[program] for program in programs]), Path("logs") / name, frozenset(needs))

    def run(jobs, places=({},)):
        made = [job(name, *programs_and_needs) for name, programs_and_needs in jobs.items()]
        reported = []
        ended = run_jobs(made, places, reported.append)
        assert reported == ended
        return {one.job.name: one.error for one in ended}

    return run


def touch(name):
    return f"open({name!r}, 'w').close()"


def test_a_job_waits_for_what_it_needs_and_its_commands_for_each_other(run):
    ends = run(
        {
            "last": (["import os; assert os.path.exists('a2')", touch("last")], ["first"]),
            "first": ([touch("a1"), "import os; os.rename('a1', 'a2')"], ["done before and not run here"]),
        }
    )
    assert ends == {"first": None, "last": None}
    assert list(ends) == ["first", "last"]
    assert Path("last").exists()


def test_as_many_run_at_once_as_there_are_places(run):
    # Each of the two waits for the other: one after the other, neither would end well.
    meet = {a: ([touch(a) + "\n" + WAIT.format(b)], []) for a, b in ("ab", "ba")}
    assert run(meet, [{}, {}]) == {"a": None, "b": None}


def test_with_one_place_there_is_one_at_a_time(run):
    program = "import os, time; os.mkdir('at work'); time.sleep(0.05); os.rmdir('at work')"
    assert run({name: ([program], []) for name in "abc"}) == dict.fromkeys("abc")


def test_each_place_has_its_environment(run):
    show = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    meet = {a: ([touch(a) + "\n" + WAIT.format(b) + show], []) for a, b in ("ab", "ba")}
    assert run(meet, slots(None, ["3", "5"])) == {"a": None, "b": None}
    assert {tail(Path("logs") / name, 1).strip() for name in "ab"} == {"3", "5"}


def test_a_failed_job_keeps_only_those_from_running_that_need_it(run):
    ends = run(
        {
            "bad": (["print('what went wrong'); exit(7)", touch("never")], []),
            "needs it": ([touch("never")], ["bad"]),
            "needs that": ([touch("never")], ["needs it"]),
            "good": ([touch("good")], []),
        }
    )
    assert ends["bad"].endswith("ended with status 7")
    assert ends["needs it"] == "left out: it needs bad"
    assert ends["needs that"] == "left out: it needs needs it"
    assert ends["good"] is None
    assert Path("good").exists()
    assert not Path("never").exists()
    assert "    what went wrong\n" in tail(Path("logs/bad"))


def test_an_error_between_commands_is_the_jobs(run, tmp_path):
    def commands():
        yield [touch("begun")]
        raise UserError("made nothing")

    (one,) = run_jobs([Job("a", commands, tmp_path / "log")], [{}], lambda _: None)
    assert one.error == "made nothing"
    assert Path("begun").exists()


def test_jobs_in_a_circle_are_refused(run):
    with pytest.raises(UserError, match="a, b need each other in a circle"):
        run({"a": ([], ["b"]), "b": ([], ["a"]), "c": ([], [])})


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def interrupt_once(path):
    def wait():
        while not path.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.parametrize("stubborn", [False, True])
def test_interrupted_it_ends_its_commands_and_what_they_started(stubborn, run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "STOP_SECONDS", 0.3 if stubborn else 10)
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if stubborn else ""
    child = f"{ignore}import time; time.sleep(60)"
    program = (
        f"{ignore}import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "open('new', 'w').write(f'{os.getpid()} {child.pid}'); os.rename('new', 'pids')\ntime.sleep(60)"
    )
    before = signal.getsignal(signal.SIGTERM)
    interrupt_once(tmp_path / "pids")
    with pytest.raises(KeyboardInterrupt):
        run({"a": ([program, touch("never")], []), "b": ([touch("never")], [])})
    pids = (tmp_path / "pids").read_text().split()
    for _ in range(500):
        if not any(map(alive, pids)):
            break
        time.sleep(0.01)
    assert not any(map(alive, pids))
    assert not Path("never").exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_job_that_another_process_works_on_is_left_to_it(run, tmp_path):
    # What a runner that was killed leaves behind: a command that still holds the log.
    (tmp_path / "logs").mkdir()
    with (tmp_path / "logs" / "a").open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=log)
    try:
        assert run({"a": ([touch("a")], []), "b": ([touch("b")], [])}) == {
            "a": "is being run by another process", "b": None,
        }  # fmt: skip
    finally:
        orphan.kill()
        orphan.wait()
    assert not Path("a").exists()
    assert run({"a": ([touch("a")], [])}) == {"a": None}


def test_a_command_is_of_this_program_and_its_output_goes_to_the_log(tmp_path):
    with (tmp_path / "log").open("ab") as log:
        assert start(["--version"], {}, log).wait() == 0
        assert start(["nonsense"], {}, log).wait() == 2
    text = (tmp_path / "log").read_text()
    assert text.startswith("lrkd ")
    assert "no command 'nonsense'" in text


@pytest.mark.parametrize(
    ("jobs", "devices", "given", "wanted"),
    [
        (None, [], {}, [{}]),
        (None, ["0", "1"], {}, [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]),
        (3, ["0", "1"], {}, [{"CUDA_VISIBLE_DEVICES": d} for d in "010"]),
        (2, [], {"OMP_NUM_THREADS": "5"}, [{}, {}]),
    ],
)
def test_places(jobs, devices, given, wanted, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: range(9), raising=False)
    threads = {} if given or len(wanted) == 1 else {"OMP_NUM_THREADS": str(9 // len(wanted))}
    assert slots(jobs, devices) == [threads | place for place in wanted]


def test_no_place_is_none():
    with pytest.raises(UserError, match="jobs is at least 1, got 0"):
        slots(0, [])
