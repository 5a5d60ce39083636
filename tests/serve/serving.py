"""A server in this process, on a free port of loopback, and a client that sends what it is told to, bytes included."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass

from lrkd.serve.app import create_app
from lrkd.serve.draining import DrainingServer


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self):
        return json.loads(self.body)


@dataclass
class Served:
    host: str
    port: int

    @property
    def url(self):
        return f"http://{self.host}:{self.port}"

    def ask(self, path, body=None, *, method=None, headers=None):
        """``body``: bytes go as they are, an iterator in chunks, all else as JSON. One connection a request."""
        raw = body is None or isinstance(body, bytes) or hasattr(body, "__next__")
        given = {"Content-Type": "application/json"} if body is not None else {}
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            sent = body if raw else json.dumps(body).encode()
            method = method or ("GET" if body is None else "POST")
            connection.request(method, path, sent, given | (headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def connect(self):
        """An open socket."""
        return socket.create_connection((self.host, self.port), timeout=30)

    def send(self, head, body=b""):
        """An open socket to which a request's lines, and perhaps not all of its body, were written."""
        connection = self.connect()
        connection.sendall("\r\n".join([*head, "Host: test", "", ""]).encode() + body)
        return connection

    def in_background(self, path, body):
        """A thread that asks, and the list that takes its answer."""
        answers = []
        thread = threading.Thread(target=lambda: answers.append(self.ask(path, body)))
        thread.start()
        return thread, answers


@contextmanager
def serving(service):
    """Serves until the block ends."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
        server = DrainingServer(create_app(service), service, seconds=10, greeting="")
        thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
        thread.start()
        until(lambda: server.started)
        try:
            yield Served(*listening.getsockname())
        finally:
            server.should_exit = True
            thread.join(30)
            service.batcher.close()


def until(condition, seconds=20):
    """Wait for something that happens in another thread."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)
