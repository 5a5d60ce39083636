"""A server under load, on loopback, by several client processes.

    python tests/benchmarks/serve/load.py sweep --model runs/exported

prints p50, p95, p99 and throughput with 1 to 256 connections that ask again once answered (closed loop), then at rates
from half to twice the throughput that was found (open loop). It stops unless every request was answered, with scores or
by a refusal.

    python tests/benchmarks/serve/load.py memory --model runs/exported --requests 100000

prints the server's resident memory as requests go by.

    python tests/benchmarks/serve/load.py shutdown --model runs/exported

sends SIGTERM while the server is beyond saturation, and stops unless the server says that it answered all that it
accepted, ends with status 0, and no request was sent that got neither scores nor a refusal.

--model is served by `python -m lrkd serve`; --server gives another command that prints `serving at URL`.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from measured import machine

CLIENT = Path(__file__).with_name("client.py")
CONNECTIONS = (1, 4, 16, 64, 256)
RATES = (0.5, 0.8, 1.0, 1.5, 2.0)
TOLD = {"503", "504"}


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[str]
    url: str
    lines: list[str]

    def memory(self) -> float:
        """Resident MB, as its metrics say."""
        with urllib.request.urlopen(f"{self.url}/metrics") as answer:
            found = re.search(r"^process_resident_memory_bytes (\S+)$", answer.read().decode(), re.MULTILINE)
        assert found
        return float(found[1]) / 1e6

    def end(self) -> int:
        """SIGTERM; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextmanager
def server(command: str) -> Iterator[Server]:
    """Starts a server, and kills what is left of it."""
    process = subprocess.Popen(shlex.split(command), stdout=subprocess.PIPE, text=True)
    try:
        lines: list[str] = []
        assert process.stdout
        for line in process.stdout:
            lines.append(line.rstrip())
            if found := re.search(r"serving at (http://\S+)", line):
                break
        else:
            raise SystemExit(f"{command}: ended before it served: {lines}")
        reading = threading.Thread(target=lambda: lines.extend(map(str.rstrip, process.stdout)), daemon=True)
        reading.start()
        yield Server(process, found[1], lines)
        reading.join(10)
    finally:
        process.kill()
        process.wait()


@dataclass
class Load:
    """What became of the requests of all clients."""

    elapsed: float
    outcomes: Counter[str]
    seconds: np.ndarray
    wrong: int

    @property
    def answered(self) -> int:
        """With scores."""
        return self.outcomes["200"]

    @property
    def untold(self) -> int:
        """Sent, and neither answered nor refused; or answered with too few results."""
        known = {"200", "refused", "resent", *TOLD}
        return self.wrong + sum(number for outcome, number in self.outcomes.items() if outcome not in known)

    def row(self, name: str) -> str:
        """A row of the table."""
        ms = np.percentile(self.seconds * 1000, (50, 95, 99)) if len(self.seconds) else [float("nan")] * 3
        told = sum(self.outcomes[status] for status in TOLD)
        times = " | ".join(f"{value:.1f}" for value in ms)
        return (
            f"| {name} | {self.answered / self.elapsed:,.0f} | {times} | {self.answered:,} | {told:,} | {self.untold} |"
        )


def load(url: str, clients: int, *arguments: object) -> list[subprocess.Popen[str]]:
    """Start clients that begin together."""
    start = time.time() + 0.5
    common = [sys.executable, str(CLIENT), "--url", url, "--start", str(start), *map(str, arguments)]
    return [
        subprocess.Popen([*common, "--seed", str(seed)], stdout=subprocess.PIPE, text=True) for seed in range(clients)
    ]


def result(processes: list[subprocess.Popen[str]]) -> Load:
    """Wait for clients and add up what they saw."""
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a client failed")
    found = [json.loads(output.splitlines()[-1]) for output in outputs]
    return Load(
        elapsed=max(one["elapsed"] for one in found),
        outcomes=sum((Counter(one["outcomes"]) for one in found), Counter()),
        seconds=np.concatenate([one["seconds"] for one in found]),
        wrong=sum(one["wrong"] for one in found),
    )


def sweep(command: str, args: argparse.Namespace) -> None:
    """Latencies and throughput at growing load."""
    heading = "| load | answered/s | p50 ms | p95 ms | p99 ms | answered | refused (503, 504) | neither |"
    print(heading, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", sep="\n", flush=True)
    untold, best = 0, 0.0
    with server(command) as served:
        result(load(served.url, 1, "--connections", 4, "--seconds", 1, "--items", args.items))  # warms up
        for number in args.connections:
            clients = min(args.clients, number)
            each = ["--connections", number // clients, "--seconds", args.seconds, "--items", args.items]
            found = result(load(served.url, clients, *each))
            best, untold = max(best, found.answered / found.elapsed), untold + found.untold
            print(found.row(f"closed, {number // clients * clients} connections"), flush=True)
        for factor in args.rates:
            rate = factor * best / args.clients
            each = ["--rate", rate, "--seconds", args.seconds, "--items", args.items]
            found = result(load(served.url, args.clients, *each))
            untold += found.untold
            print(found.row(f"open, {factor:g} × {best:,.0f}/s"), flush=True)
        if served.end() or untold:
            raise SystemExit(f"status {served.process.returncode}, {untold} requests without an answer")


def memory(command: str, args: argparse.Namespace) -> None:
    """Resident memory over many requests."""
    print("| requests | resident MB |", "| ---: | ---: |", sep="\n")
    sizes, done = [], 0
    with server(command) as served:
        for _ in range(args.pieces + 1):
            sizes.append(served.memory())
            print(f"| {done:,} | {sizes[-1]:.1f} |", flush=True)
            if done >= args.requests:
                break
            each = args.requests // args.pieces // args.clients
            arguments = ["--connections", 16, "--seconds", 3600, "--requests", each, "--items", args.items]
            done += result(load(served.url, args.clients, *arguments)).answered
        served.end()
    print(f"growth from the first piece's end to the last's: {sizes[-1] / sizes[1] - 1:+.1%}")


def shutdown(command: str, args: argparse.Namespace) -> None:
    """SIGTERM while clients ask for more than the server can do."""
    with server(command) as served:
        each = ["--connections", args.connections[-1], "--seconds", args.seconds + 2, "--items", args.items]
        clients = load(served.url, args.clients, *each)
        time.sleep(0.5 + args.seconds)
        status = served.end()
        found = result(clients)
    print(*served.lines, sep="\n")
    print(json.dumps({"status": status, "untold": found.untold, "outcomes": dict(found.outcomes)}))
    if status or found.untold or not served.lines[-1].startswith("ended; 0 "):
        raise SystemExit("the shutdown lost requests")


def main() -> None:
    """One of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurement", choices=["sweep", "memory", "shutdown"])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--server", help="a command in place of `python -m lrkd serve --model MODEL --port 0`")
    parser.add_argument("--clients", type=int, default=2, help="processes")
    parser.add_argument("--items", type=int, default=8, help="pairs a request")
    parser.add_argument("--seconds", type=float, default=10, help="of every load")
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS)
    parser.add_argument("--rates", type=float, nargs="*", default=RATES)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--pieces", type=int, default=10)
    args = parser.parse_args()
    if (args.model is None) == (args.server is None):
        parser.error("give --model or --server")
    print(machine())
    python = shlex.quote(sys.executable)
    command = args.server or f"{python} -m lrkd serve --model {shlex.quote(str(args.model))} --port 0"
    {"sweep": sweep, "memory": memory, "shutdown": shutdown}[args.measurement](command, args)


if __name__ == "__main__":
    main()
