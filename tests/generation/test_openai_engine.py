"""The engine against a real HTTP server on loopback, with faults injected by job and attempt."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lrkd.errors import UserError
from lrkd.generation.jobs import Completion, Job, Key, Sampling, job_seed
from lrkd.generation.openai_engine import OpenAIEngine
from lrkd.prompts.book import Prompt


class Server(ThreadingHTTPServer):
    """Echoes the user's turn, unless a fault is planned for it.

    ``plan(name, attempt, total)`` names the fault of a job's attempt (both from 0 on), or None; ``total`` counts all
    requests from 1 on.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan = lambda name, attempt, total: None
        self.delay = 0.0
        self.lock = threading.Lock()
        self.stopped = threading.Event()
        self.attempts: Counter[str] = Counter()
        self.requests: list[dict] = []
        self.arrivals: list[float] = []
        self.keys: list[str] = []
        self.busy = self.most_busy = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address):
        pass  # clients that went away are part of the tests


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.reply(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = request["messages"][-1]["content"].split()[-1]
        server = self.server
        with server.lock:
            attempt = server.attempts[name]
            server.attempts[name] += 1
            server.requests.append(request)
            server.arrivals.append(time.monotonic())
            server.keys.append(self.headers["Authorization"])
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
            total = len(server.requests)
        fault = server.plan(name, attempt, total)
        server.stopped.wait(server.delay)
        with server.lock:
            server.busy -= 1
        text = f"echo {request['messages'][-1]['content']}"
        getattr(self, f"fault_{fault}" if fault else "answer")(text)

    def answer(self, text, finish="stop"):
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        self.reply(200, {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": usage})

    def reply(self, status, body, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for header, value in {"Content-Type": "application/json", "Content-Length": len(data), **headers}.items():
            self.send_header(header.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(data)

    def error(self, status, message, **headers):
        self.reply(status, {"error": {"message": message, "code": status}}, **headers)

    def fault_timeout(self, text):
        self.server.stopped.wait(5)

    def fault_limit(self, text):
        self.error(429, "slow down", Retry_After=0)

    def fault_limit_second(self, text):
        self.error(429, "slow down", Retry_After=1)

    def fault_limit_silent(self, text):
        self.error(429, "slow down")

    def fault_quota(self, text):
        self.error(429, "quota", Retry_After=90_000)

    def fault_500(self, text):
        self.error(500, "boom")

    def fault_503(self, text):
        self.reply(503, b"<html>overloaded</html>", Content_Type="text/html")

    def fault_400(self, text):
        self.error(400, "This model's maximum context length is 64 tokens")

    def fault_401(self, text):
        self.error(401, "no such key")

    def fault_404(self, text):
        self.error(404, "The model `large` does not exist.")

    def fault_cut(self, text):
        self.reply(200, b'{"choices": [{"index": 0, "mess', Content_Length=500)
        self.close_connection = True

    def fault_no_json(self, text):
        self.reply(200, b'{"choices": [{"index": 0, "mess')

    def fault_html(self, text):
        self.reply(200, b"<html>hello</html>", Content_Type="text/html")

    def fault_list(self, text):
        self.reply(200, [])

    def fault_no_choices(self, text):
        self.reply(200, {"choices": []})

    def fault_null_choices(self, text):
        self.reply(200, {"choices": None})

    def fault_no_message(self, text):
        self.reply(200, {"choices": [{"index": 0, "finish_reason": "stop", "message": {}}]})

    def fault_null(self, text):
        self.answer(None)

    def fault_empty(self, text):
        self.answer("")

    def fault_abort(self, text):
        self.answer("ech", "abort")

    def fault_length(self, text):
        self.answer(text[:4], "length")

    def fault_thinking(self, text):
        self.answer(None, "length")

    def fault_filter(self, text):
        self.answer("", "content_filter")

    def fault_reset(self, text):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


# fmt: off
PASSING = [
    "timeout", "limit", "limit_silent", "limit_second", "500", "503", "cut", "no_json", "html", "list", "no_choices",
    "null_choices", "no_message", "null", "empty", "abort", "reset",
]
# fmt: on


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.stopped.set()
        server.shutdown()
        thread.join()


def make_jobs(names, system="judge"):
    return [Job(Key(name, "intent", 0), Prompt(system, "pair", name)) for name in names]


def make_engine(server, **options):
    return OpenAIEngine("tiny", server.url, **{"sampling": Sampling(), "backoff": 0.01, **options})


def producers():
    return [thread for thread in threading.enumerate() if thread.name == "lrkd-producer"]


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_every_job_is_answered_once_with_its_own_content_whatever_fails_on_the_way(server):
    faults = {f"{fault}-{i}": fault for fault in PASSING for i in range(2)}
    names = [*faults, *(f"fine-{i}" for i in range(30))]
    # jobs -0 fail once, jobs -1 twice: an empty message is taken for the answer then
    server.plan = lambda name, attempt, total: faults.get(name) if attempt <= int(name[-1]) else None
    answers = list(make_engine(server, concurrency=6, timeout=0.8).generate(make_jobs(names)))
    assert Counter(answer.key for answer in answers) == Counter(Key(name, "intent", 0) for name in names)
    for answer in answers:
        wanted = "" if answer.key.pair_id == "empty-1" else f"echo pair\n\n{answer.key.pair_id}"
        assert answer == Completion(answer.key, wanted, True, 7, 3)
    assert all(server.attempts[name] >= 2 for name in faults)
    assert server.most_busy <= 6
    assert not producers()


def test_window_slides_and_keeps_its_size(server):
    """One answer that takes long holds up nobody: the others go on in the rest of the window."""
    server.plan = lambda name, attempt, total: "timeout" if name == "slow" else None
    server.delay = 0.02
    names = [f"fine-{i}" for i in range(40)]
    with closing(make_engine(server, concurrency=4).generate(make_jobs(["slow", *names]))) as answers:
        got = [next(answers).key.pair_id for _ in names]
    assert sorted(got) == sorted(names)
    assert 2 <= server.most_busy <= 4


def test_cut_off_texts_are_answers_that_did_not_end(server):
    server.plan = lambda name, attempt, total: name
    answers = {a.key.pair_id: a for a in make_engine(server).generate(make_jobs(["length", "thinking", "filter"]))}
    assert (answers["length"].text, answers["length"].finished) == ("echo", False)
    assert (answers["thinking"].text, answers["thinking"].finished) == ("", False)
    assert (answers["filter"].text, answers["filter"].finished) == ("", False)
    assert len(server.requests) == 3


def test_what_is_sent(server):
    sampling = Sampling(max_new_tokens=9, temperature=0.5, top_p=0.75, seed=3)
    (_,) = make_engine(server, sampling=sampling).generate(make_jobs(["a"]))
    assert server.requests[0] == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "judge"}, {"role": "user", "content": "pair\n\na"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.75,
        "seed": job_seed(3, Key("a", "intent", 0), bits=31),
    }
    assert server.keys == ["Bearer none"]
    thinking = {"chat_template_kwargs": {"enable_thinking": False}}
    engine = make_engine(server, sampling=Sampling(top_k=5), extra_body=thinking, api_key="secret")
    (_,) = engine.generate(make_jobs(["a"], system=""))
    assert server.requests[1]["messages"] == [{"role": "user", "content": "pair\n\na"}]
    assert server.requests[1]["top_k"] == 5
    assert server.requests[1]["chat_template_kwargs"] == {"enable_thinking": False}
    assert server.keys[1] == "Bearer secret"
    assert engine.teacher == "tiny"


def test_seeds_are_stable_and_differ_by_key_and_seed():
    keys = [Key(pair, view, n) for pair in "ab" for view in ("intent", "rule") for n in range(3)]
    seeds = {job_seed(seed, key, bits=31) for seed in (0, 1) for key in keys}
    assert len(seeds) == 24
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert job_seed(0, Key("a", "intent", 0), bits=31) == 0x6013971B >> 1  # printf '[0, "a", "intent", 0]' | sha256sum


def test_gives_up_after_the_retries_and_yields_what_was_answered(server):
    server.plan = lambda name, attempt, total: "500" if name == "bad" else None
    answers = make_engine(server, concurrency=1, max_retries=2).generate(make_jobs(["a", "b", "bad", "c"]))
    assert [next(answers).key.pair_id, next(answers).key.pair_id] == ["a", "b"]
    with pytest.raises(UserError) as raised:
        next(answers)
    message = str(raised.value)
    for words in (server.url, "after 2 retries: HTTP 500: boom", "'bad'", "2 of 4 jobs", "run the command again"):
        assert words in message
    assert server.attempts["bad"] == 3
    assert server.attempts["c"] == 0
    assert not producers()


def test_answers_that_came_before_a_failure_are_not_lost(server):
    """With an idle reader: they wait in the outlet when another request fails."""
    names = [f"fine-{i}" for i in range(7)]
    server.plan = lambda name, attempt, total: "401" if name == "bad" else None
    answers = make_engine(server, concurrency=4).generate(make_jobs([*names, "bad"]))
    got = [next(answers).key.pair_id]
    wait_until(lambda: not producers())
    with pytest.raises(UserError, match="401"):
        got.extend(answer.key.pair_id for answer in answers)
    assert len(got) >= 4  # at most three others were under way


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("400", ["HTTP 400", "maximum context length is 64", "max_new_tokens"]),
        ("401", ["HTTP 401", "no such key", "OPENAI_API_KEY"]),
        ("404", ["HTTP 404", "`large` does not exist", "the server lists ['tiny']"]),
        ("quota", ["after 0 retries: HTTP 429: quota", "wait 90,000 s"]),
    ],
)
def test_refusals_fail_at_once_and_say_what_to_mend(server, fault, words):
    server.plan = lambda name, attempt, total: fault
    with pytest.raises(UserError) as raised:
        list(make_engine(server, concurrency=1).generate(make_jobs("ab")))
    assert [word for word in [server.url, *words] if word not in str(raised.value)] == []
    assert len(server.requests) == 1


def test_a_model_that_only_thinks_is_named(server):
    server.plan = lambda name, attempt, total: "null"
    with pytest.raises(UserError, match=r"after 1 retries: a message without content.*extra_body"):
        list(make_engine(server, max_retries=1).generate(make_jobs("a")))


def test_no_server():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, but nobody listens
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        engine = OpenAIEngine("tiny", url, sampling=Sampling(), max_retries=1, backoff=0.01)
        with pytest.raises(UserError, match=r"after 1 retries: Connection error.*0 of 1 jobs"):
            list(engine.generate(make_jobs("a")))


def test_early_close_cancels_what_is_under_way(server):
    server.plan = lambda name, attempt, total: None if name == "a" else "timeout"
    before = set(threading.enumerate())
    answers = make_engine(server, concurrency=4, timeout=60).generate(make_jobs("abcdefgh"))
    assert next(answers).key.pair_id == "a"
    wait_until(lambda: len(server.requests) == 5)
    answers.close()
    assert not producers()
    server.stopped.set()
    handlers = "process_request_thread"
    wait_until(lambda: not [t for t in set(threading.enumerate()) - before if handlers not in t.name])
    assert len(server.requests) == 5


def test_an_unread_iterator_asks_nothing_and_a_slow_reader_is_waited_for(server):
    answers = make_engine(server, concurrency=3).generate(make_jobs([f"fine-{i}" for i in range(50)]))
    assert not producers()
    got = [next(answers)]
    wait_until(lambda: len(server.requests) == 7)  # one was read; twice three may be under way or wait
    time.sleep(0.1)
    assert len(server.requests) == 7
    got.extend(answers)
    assert len({answer.key for answer in got}) == len(got) == 50


def test_a_rate_limit_pauses_all_requests(server):
    """Four arrive together and one is refused for a second; the others, answered a moment later, wait as well."""
    refused = []
    together = threading.Barrier(4, action=lambda: refused.append(time.monotonic()))

    def plan(name, attempt, total):
        if total <= 4:
            together.wait(10)
        if 1 < total <= 4:
            server.stopped.wait(0.3)
        return "limit_second" if total == 1 else None

    server.plan = plan
    answers = list(make_engine(server, concurrency=4).generate(make_jobs("abcdefghijkl")))
    assert len(answers) == 12
    late = [arrival - refused[0] for arrival in sorted(server.arrivals)[4:]]
    assert len(late) == 9
    assert min(late) >= 1


def test_rate_limits_count_only_while_nobody_gets_through(server):
    """Only each fifth request passes: most jobs are refused more often than they have retries, and none fails."""
    server.plan = lambda name, attempt, total: None if total % 5 == 0 else "limit"
    answers = list(make_engine(server, concurrency=8, max_retries=5).generate(make_jobs([f"j{i}" for i in range(24)])))
    assert len({answer.key for answer in answers}) == len(answers) == 24
    assert max(server.attempts.values()) > 6


def test_works_where_an_event_loop_runs_already(server):
    async def cell():
        return list(make_engine(server).generate(make_jobs("ab")))

    assert len(asyncio.run(cell())) == 2


def test_no_jobs(server):
    assert list(make_engine(server).generate([])) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base_url": "localhost:8000/v1"}, "http://localhost:8000/v1"),
        ({"base_url": "http://host:port/v1"}, "http://localhost:8000/v1"),
        ({"concurrency": 0}, "concurrency is at least 1"),
        ({"backoff": 0}, "backoff above 0"),
        ({"extra_body": {"n": 2, "seed": 1}}, r"\['n', 'seed'\]"),
    ],
)
def test_wrong_options(options, words):
    with pytest.raises(UserError, match=words):
        OpenAIEngine(**{"model": "tiny", "base_url": "http://localhost/v1", "sampling": Sampling(), **options})


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"pip install 'lrkd\[openai\]'"):
        OpenAIEngine("tiny", "http://localhost/v1", sampling=Sampling())
