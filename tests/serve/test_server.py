"""The server as a process: how it starts, how it ends, and what it does under load."""

import gc
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from serving import Served, serving, until
from stand_in_scorer import StandInScorer, service_over

from lrkd.__main__ import main
from lrkd.errors import UserError
from lrkd.serve import model as model_module
from lrkd.serve import server
from lrkd.serve.batcher import Verdict, _Job
from lrkd.serve.limits import Limits

ROOT = Path(__file__).parents[2]
LOAD = ROOT / "tests/benchmarks/serve/load.py"
STAND_IN = Path(__file__).with_name("stand_in_scorer.py")
PAIR = {"query": "red mug", "title": "Red mug"}


def stand_in(seconds, **settings):
    """The command of a server whose batches take so many seconds."""
    return [sys.executable, str(STAND_IN), str(seconds), *(f"{name}={value}" for name, value in settings.items())]


@pytest.fixture
def process():
    """Starts a server; the process and where it is served."""
    started = []

    def start(seconds, **settings):
        command = stand_in(seconds, **settings)
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT))
        found = re.fullmatch(r"serving at http://(\S+):(\d+) \(Ctrl\+C ends it\)\n", started[-1].stdout.readline())
        return started[-1], Served(found[1], int(found[2]))

    yield start
    for one in started:
        one.kill()
        one.communicate()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_answer_is_sent_at_once(host):
    """Without TCP_NODELAY its body waits until the client has acknowledged its head, which most do after 40 ms."""
    try:
        listening = server._listen(host, 0)
    except UserError:
        pytest.skip(f"this machine has no {host}")
    with listening, socket.create_connection(listening.getsockname()[:2]), listening.accept()[0] as connection:
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_ends_with_status_0(process, sent):
    running, served = process(0)
    assert served.ask("/ready").status == 200
    running.send_signal(sent)
    shown, _ = running.communicate(timeout=20)
    assert running.returncode == 0
    assert shown.endswith("ended; 0 accepted requests got no answer\n")


def test_a_signal_lets_accepted_requests_finish(process):
    running, served = process(1.0)
    thread, answers = served.in_background("/score", {"pairs": [PAIR]})
    until(lambda: "lrkd_waiting_items 0.0" in served.ask("/metrics").body.decode())
    time.sleep(0.2)
    running.send_signal(signal.SIGTERM)
    until(lambda: served.ask("/ready").status == 503)
    refused = served.ask("/score", {"pairs": [PAIR]})
    assert (refused.status, refused.headers["Connection"]) == (503, "close")
    thread.join(20)
    assert (answers[0].status, answers[0].json()["results"][0]["label"]) == (200, "Exact")
    assert running.wait(20) == 0


@pytest.mark.parametrize("signals", [1, 2])
def test_what_is_lost_is_said(process, signals):
    """A scorer that hangs: the shutdown ends when its time is over, or at a second signal."""
    running, served = process(3600, drain=1 if signals == 1 else 3600)
    connection = served.send(
        ["POST /score HTTP/1.1", "Content-Type: application/json", "Content-Length: 49"],
        b'{"pairs": [{"query": "red mug", "title": "mug"}]}',
    )
    until(lambda: served.ask("/metrics").body.decode().find("lrkd_waiting_items 0.0") > 0)
    time.sleep(0.3)
    running.send_signal(signal.SIGTERM)
    if signals == 2:
        until(lambda: served.ask("/ready").status == 503)
        running.send_signal(signal.SIGTERM)
    shown, _ = running.communicate(timeout=30)
    connection.close()
    assert running.returncode == 1
    assert "told to end; answering 1 accepted requests first" in shown
    assert shown.endswith("ended; 1 accepted requests got no answer\n")


def benchmark(measurement, command, *options):
    done = subprocess.run(
        [sys.executable, str(LOAD), measurement, "--server", shlex.join(command), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_sigterm_beyond_saturation_loses_nothing():
    """64 connections ask for 4 pairs each, while 64 may wait and a batch takes 20 ms: most are refused meanwhile."""
    command = stand_in(0.02, items=8, waiting=64)
    shown = benchmark("shutdown", command, "--connections", "32", "--items", "4", "--seconds", "1")
    assert '"status": 0, "untold": 0' in shown
    outcomes = {name: int(number) for name, number in re.findall(r'"(\w+)": (\d+)', shown.split("outcomes")[1])}
    assert outcomes["200"] > 50
    assert outcomes["503"] > 50


def test_every_request_of_a_load_is_answered_or_refused():
    command = stand_in(0.02, items=8, waiting=32)
    options = ["--connections", "2", "16", "--rates", "0.5", "2", "--items", "4", "--seconds", "1"]
    rows = [line.split(" | ") for line in benchmark("sweep", command, *options).splitlines() if "connections" in line
            or "open" in line]  # fmt: skip
    assert len(rows) == 4
    assert all(row[-1] == "0 |" for row in rows), "none was left without an answer"
    assert int(rows[-1][-2].replace(",", "")) > 0, "at twice what it can do, some are refused"


def test_memory_is_measured():
    shown = benchmark("memory", stand_in(0), "--requests", "400", "--pieces", "2", "--items", "2")
    assert re.findall(r"^\| (\d+) \| \d+\.\d \|$", shown, re.MULTILINE) == ["0", "200", "400"]
    assert "growth" in shown


def test_nothing_is_kept_of_answered_requests(tmp_path):
    scorer = StandInScorer()
    service = service_over(scorer, tmp_path, limits=Limits(items=4))
    with serving(service) as served:
        for n in range(30):
            served.ask("/score", [{"pairs": [PAIR]}, {"pairs": [PAIR] * 5}, {"pairs": [{}]}, {}][n % 4])
    gc.collect()
    kept = [kind.__name__ for kind in map(type, gc.get_objects()) if kind in (_Job, Verdict)]
    assert not kept


def test_a_taken_port_is_named(process, tmp_path):
    _, served = process(0)
    service = service_over(StandInScorer(), tmp_path)
    with pytest.raises(UserError, match=rf"--host 127\.0\.0\.1 --port {served.port}: .*in use"):
        server.run(service, port=served.port)
    service.batcher.close()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "not a readable"),
        (b"short\n", "16"),
        (b"\xff" * 20, "not a readable"),
        ("ключ сервера".encode(), "ASCII"),
    ],
)
def test_a_key_that_cannot_be_one_is_refused(tmp_path, content, said):
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=said):
        server._read_key(file)


@pytest.fixture
def run_services(monkeypatch, tmp_path):
    """Lets ``serve`` open a stand-in; the services that it would run."""
    services = []
    opened = model_module.prepare(StandInScorer(), None, [], tmp_path)
    monkeypatch.setattr(model_module, "open_model", lambda folder, threads: opened)
    monkeypatch.setattr(
        server, "run", lambda service, *where: services.append(SimpleNamespace(service=service, where=where))
    )
    yield services
    for one in services:
        one.service.batcher.close()


def test_the_command_passes_its_options_on(run_services, tmp_path, capsys):
    (tmp_path / "key").write_text("a key of 16 characters\n")
    options = "--batch_items 5 --wait_ms 3 --limits.items 7 --limits.waiting 9 --host ::1 --port 81 --drain_seconds 4"
    main(["serve", "--model", "exported", "--api_key_file", str(tmp_path / "key"), *options.split()])
    ((service, where),) = [(one.service, one.where) for one in run_services]
    assert where == ("::1", 81, 4.0)
    assert (service.batcher.size, service.batcher.wait, service.batcher.capacity) == (5, 0.003, 9)
    assert (service.limits.items, service.limits.seconds) == (7, Limits().seconds)
    assert service.needs_key
    assert "read exported (stand_in; Exact, Substitute, Complement, Irrelevant)" in capsys.readouterr().out


def test_by_default_only_this_machine_is_served(run_services):
    main(["serve", "--model", "exported"])
    assert run_services[0].where[0] == "127.0.0.1"
    assert run_services[0].service.limits == Limits()
    assert not run_services[0].service.needs_key


def test_a_server_that_others_reach_without_a_key_says_so(process, tmp_path, capsys, monkeypatch):
    service = service_over(StandInScorer(), tmp_path)
    monkeypatch.setattr("lrkd.serve.draining.DrainingServer.run", lambda self, sockets: None)
    server.run(service, host="0.0.0.0", port=0)
    assert "other machines may reach it" in capsys.readouterr().err


def test_no_part_of_the_server_imports_torch():
    code = "import lrkd.serve.app, lrkd.serve.draining, lrkd.serve.model, lrkd.serve.service, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"torch", "lightning", "transformers", "sklearn", "pandas"} & set(done.stdout.split())
