"""Claim: no client keeps the service from answering the others.

Starts `serve` afresh for every trial, under a limit of 256 open files, and does to it what a broken
or hostile client may do. `--package` is the folder of another version of the code to try, such as
a checkout of an older commit.

    python benchmarks/hostile_clients.py --model MODEL
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from report import record

FILES = 256
"""Files that the service may have open."""

PATIENCE = 60
"""Seconds after which a client gives up."""

SHORT = {"question": "Who built the mill?", "context": "The mill was built by Jonas Webb. " * 20}
LONG = {"question": "Who built the mill?", "context": "The mill was built by Jonas Webb. " * 2941}
"""680 and 99,994 characters."""


@dataclass(frozen=True)
class Service:
    process: subprocess.Popen[str]
    port: int
    log: Path  # its standard error

    @contextmanager
    def connections(self, count: int) -> Iterator[list[socket.socket]]:
        """So many connections, closed in the end."""
        opened = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(count)]
        try:
            yield opened
        finally:
            for one in opened:
                one.close()

    def ask(self, asked: dict[str, str] = SHORT) -> str:
        """Ask a question; gives the status, or what went wrong, and the seconds that it took."""
        started = time.perf_counter()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
            connection.request("POST", "/answer", **body(asked))
            outcome = str(connection.getresponse().status)
        except (OSError, http.client.HTTPException) as error:
            outcome = type(error).__name__
        return f"{outcome} after {time.perf_counter() - started:.1f} s"

    def memory(self) -> float:
        """Resident memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1000


def body(asked: dict[str, str]) -> dict[str, object]:
    """Arguments of `HTTPConnection.request` that ask this."""
    return {"body": json.dumps(asked), "headers": {"Content-Type": "application/json"}}


def request(asked: dict[str, str], *headers: str) -> bytes:
    """The bytes of a request."""
    content = json.dumps(asked).encode()
    head = ["POST /answer HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    return "\r\n".join([*head, f"Content-Length: {len(content)}", "", ""]).encode() + content


def reply(connection: socket.socket) -> str:
    """The status of a reply, or "empty"."""
    connection.settimeout(PATIENCE)
    try:
        found = re.match(rb"HTTP/1.1 (\d+)", connection.recv(4096))
    except TimeoutError:
        return "none"
    except OSError:
        return "reset"
    return found[1].decode() if found else "empty"


def half_open(service: Service) -> str:
    """300 connections that send half a header and wait."""
    with service.connections(300) as connections:
        for one in connections:
            one.sendall(b"POST /answer HTTP/1.1\r\nHost: localhost\r\n")
        outcome = service.ask()
    return f"another client: {outcome}; log {service.log.stat().st_size / 1e6:.1f} MB"


def half_a_body(service: Service) -> str:
    """100 connections that send half a body and wait."""
    with service.connections(100) as connections:
        for one in connections:
            one.sendall(request(SHORT)[:-300])
        started = time.perf_counter()
        got = reply(connections[0])
    return f"{got} after {time.perf_counter() - started:.0f} s"


def abandoned(service: Service) -> str:
    """40 contexts of 100 kB, closed at once."""
    with service.connections(40) as connections:
        for one in connections:
            one.sendall(request(LONG))
    time.sleep(0.2)
    return f"another client: {service.ask()}"


def long_before_short(service: Service) -> str:
    """4 clients wait for answers about 100 kB."""
    with ThreadPoolExecutor(4) as pool:
        long = [pool.submit(service.ask, LONG) for _ in range(4)]
        time.sleep(1)
        short = service.ask()
        return f"a short question: {short}; they: {long[0].result()} to {long[-1].result()}"


def crowd(service: Service) -> str:
    """40 clients ask about 100 kB at once."""
    with ThreadPoolExecutor(40) as pool:
        outcomes = [one.split()[0] for one in pool.map(service.ask, [LONG] * 40)]
    return said(Counter(outcomes))


def terminated(service: Service) -> str:
    """SIGTERM while 100 questions wait."""
    with service.connections(100) as connections:
        for one in connections:
            one.sendall(request(SHORT | {"context": SHORT["context"] * 5}))
        time.sleep(1)
        service.process.send_signal(signal.SIGTERM)
        started = time.perf_counter()
        replies = Counter(map(reply, connections))
        service.process.wait()
    return f"{said(replies)}; ended after {time.perf_counter() - started:.0f} s"


def two_lengths(service: Service) -> str:
    """Content-Length together with Transfer-Encoding."""
    with service.connections(1) as (one,):
        head, _, content = request(SHORT, "Transfer-Encoding: chunked").partition(b"\r\n\r\n")
        one.sendall(head + b"\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(content), content))
        one.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        got = reply(one)
        one.settimeout(2)
        try:
            more = one.recv(4096)
        except OSError:
            more = b"?"
    return f"{got}, then {'the connection is closed' if not more else 'it stays open'}"


def soak(service: Service, seconds: float = 180) -> str:
    """3 minutes of all sorts, every client for itself."""
    until = time.monotonic() + seconds

    def client(number: int) -> Counter[str]:
        statuses: Counter[str] = Counter()
        while time.monotonic() < until:
            if number == 0:
                with service.connections(5) as leaving:
                    for one in leaving:
                        one.sendall(request(LONG))
            elif number == 1:
                with service.connections(50) as waiting:
                    waiting[0].sendall(b"GET")
                    time.sleep(1)
            else:
                statuses[service.ask().split()[0]] += 1
            time.sleep(0.05)
        return statuses

    with ThreadPoolExecutor(6) as pool:
        running = [pool.submit(client, number) for number in range(6)]
        time.sleep(seconds / 3)
        early = service.memory()
        statuses = sum((one.result() for one in running), Counter())
    return (
        f"{said(statuses)}; memory {early:.0f} MB after a third, {service.memory():.0f} at the end"
    )


def said(counts: Counter[str]) -> str:
    """Counts in words: 88 empty, 12 with 200."""
    return ", ".join(f"{count} times {what}" for what, count in sorted(counts.items()))


TRIALS: dict[str, Callable[[Service], str]] = {
    trial.__name__: trial
    for trial in (
        half_open,
        half_a_body,
        abandoned,
        long_before_short,
        crowd,
        terminated,
        two_lengths,
        soak,
    )
}


@contextmanager
def serving(model: str, package: Path) -> Iterator[Service]:
    """A service in a process of its own, which has answered once."""
    command = [sys.executable, "-m", "qa_lightning", "serve", model, "--port", "0"]
    command += ["--precision", "32-true"]
    with tempfile.NamedTemporaryFile("w") as log:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=package,
            env={**os.environ, "PYTHONPATH": str(package)},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES)),
        )
        try:
            assert process.stdout is not None
            port = re.search(r":(\d+)", process.stdout.readline())
            if port is None:
                sys.exit("the service did not start")
            service = Service(process, int(port[1]), Path(log.name))
            service.ask()
            yield service
        finally:
            process.kill()
            process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="as for `serve`")
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("--package", type=Path, default=here, help="the code to try")
    parser.add_argument("--trials", nargs="+", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    given = parser.parse_args()
    rows = []
    for name in given.trials:
        with serving(given.model, given.package) as service:
            trial = TRIALS[name]
            rows.append({"trial": str(trial.__doc__).rstrip("."), "outcome": trial(service)})
            print(rows[-1], flush=True)
    note = f"At most {FILES} open files; a client gives up after {PATIENCE} seconds."
    record("What clients may do to the service", rows, note, to_file=given.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
