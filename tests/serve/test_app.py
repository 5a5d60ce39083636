"""The server over HTTP: what it answers, what it refuses, and that neither spoils the other."""

import json
import re
import threading

import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import serving, until
from stand_in_scorer import NOT_A_NUMBER, POISON, UNIT_LATENTS, StandInIndex, StandInScorer, service_over

from lrkd.errors import UserError
from lrkd.serve.limits import Limits
from lrkd.serve.model import open_model, prepare
from lrkd.serve.request_body import DISCARDED

PAIR = {"query": "red mug", "title": "Red mug, 350 ml"}
BODY_BYTES = 4000


@pytest.fixture
def scorer():
    return StandInScorer(latents=UNIT_LATENTS)


@pytest.fixture
def serve(scorer, tmp_path):
    """Starts a server over the scorer, with these limits and options."""
    running = []

    def start(*, index=None, limits=None, **options):
        service = service_over(scorer, tmp_path, index=index, limits=Limits(**(limits or {})), **options)
        scorer.batches.clear()
        running.append(serving(service))
        return running[-1].__enter__(), service

    yield start
    scorer.go_on.set()
    for one in running:
        one.__exit__(None, None, None)


@pytest.fixture
def served(serve):
    return serve(limits={"body_bytes": BODY_BYTES, "items": 8, "characters": 500})[0]


def test_pairs_are_scored_in_their_order(served):
    titles = ["Blue mug", "Red mug", "Tea towel"]
    answer = served.ask("/score", {"pairs": [{"query": "red mug", "title": title} for title in titles]})
    assert answer.status == 200
    first, exact, last = answer.json()["results"]
    assert exact == {
        "index": 1,
        "label": "Exact",
        "gain": pytest.approx(0.7 * 1 + 0.1 * 0.1 + 0.1 * 0.01, abs=1e-6),
        "probabilities": {"Exact": 0.7, "Substitute": 0.1, "Complement": 0.1, "Irrelevant": 0.1},
        "tokens_cut": 0,
    }
    assert [(r["index"], r["label"]) for r in (first, last)] == [(0, "Complement"), (2, "Irrelevant")]


def test_items_are_ranked_best_first_and_bad_ones_last(served):
    items = [{"title": "Tea towel"}, {"titel": "Mug"}, {"title": "Red mug"}, {"title": "Towel"}, {"title": "Blue mug"}]
    answer = served.ask("/rank", {"query": "red mug", "items": items})
    assert answer.status == 200
    assert [r["index"] for r in answer.json()["results"]] == [2, 4, 0, 3, 1], "equal gains keep the request's order"
    assert "unknown field 'titel'" in answer.json()["results"][-1]["error"]["message"]


def test_a_bad_item_fails_alone(served):  # trap 44
    answer = served.ask("/score", {"pairs": [PAIR, {"query": "red mug", "title": 5}, PAIR]})
    assert answer.status == 200
    first, error, last = answer.json()["results"]
    assert first | {"index": 2} == last
    assert error == {"index": 1, "error": {"field": "title", "message": "wants a text, got a number"}}


def test_where_no_item_is_scored_the_status_says_whose_fault_it_is(served):
    assert served.ask("/score", {"pairs": [{"query": "red mug"}]}).status == 422
    answer = served.ask("/score", {"pairs": [{"query": "red mug"}, {"query": "red mug", "title": POISON}]})
    assert answer.status == 500
    assert [r["index"] for r in answer.json()["results"]] == [0, 1]


def test_requests_do_not_spoil_each_other(serve, scorer):  # trap 44
    served, service = serve()
    alone = served.ask("/score", {"pairs": [PAIR]}).json()
    scorer.go_on.clear()
    first = served.in_background("/score", {"pairs": [PAIR]})
    until(lambda: len(scorer.batches) == 2)
    bodies = [
        {"pairs": [PAIR]},
        {"pairs": [PAIR | {"title": POISON}]},
        {"pairs": [{"query": "mug"}]},
        {"pairs": [PAIR]},
    ]
    others = [served.in_background("/score", body) for body in bodies]
    until(lambda: service.batcher.waiting == 3)
    scorer.go_on.set()
    for thread, _ in (first, *others):
        thread.join(20)
    assert [answers[0].status for _, answers in (first, *others)] == [200, 200, 500, 422, 200]
    assert all(others[n][1][0].json() == alone for n in (0, 3)), "batched and single scores agree"
    assert 3 in scorer.batches, "what waited together was one batch"


HOSTILE = {
    "no body": (b"", 400, "line 1 column 1"),
    "a list": (b"[]", 422, "wants an object"),
    "a lone quote": (b'"', 400, "Unterminated string"),
    "not UTF-8": (b'{"pairs": [{"query": "\xe9"}]}', 400, "not UTF-8: byte 22"),
    "UTF-16": (json.dumps({"pairs": [PAIR]}).encode("utf-16"), 400, "not UTF-8"),
    "deep lists": (b"[" * BODY_BYTES, 400, ""),
    "deep objects": (b'{"a":' * (BODY_BYTES // 5), 400, ""),
    "less deep inside": (b'{"pairs": [{"query": "mug", "title": ' + b"[" * 50 + b"]" * 50 + b"}]}", 422, "got a list"),
    "NaN": (b'{"pairs": [], "explain": NaN}', 400, "NaN is no number"),
    "infinity": (b'{"pairs": [], "explain": 1e999}', 422, "list of at least one"),
    "an endless number": (b'{"explain": ' + b"9" * 3000 + b', "pairs": [{}]}', 422, "whole number"),
    "a key twice": (b'{"pairs": [{"query": "a", "query": "b", "title": "c"}]}', 400, "the key 'query' stands twice"),
    "a bare control character": (b'{"pairs": [{"query": "a\x01"}]}', 400, "Invalid control character"),
    "an escaped NUL": (b'{"pairs": [{"query": "a\\u0000", "title": "c"}]}', 422, "U+0000 at character 1"),
    "a lone surrogate": (b'{"pairs": [{"query": "a", "title": "\\ud800"}]}', 422, "U+D800"),
    "a surrogate as a key": (b'{"pairs": [{"\\udfff": 1}]}', 422, "unknown field"),
    "a number for a list": (b'{"pairs": 3}', 422, "got a number"),
    "strings for pairs": (b'{"pairs": ["mug"]}', 422, "wants an object with a title"),
    "too many": (json.dumps({"pairs": [{}] * 9}).encode(), 413, "9 items; at most 8"),
    "a long text": (json.dumps({"pairs": [PAIR | {"title": "m" * 501}]}).encode(), 422, "501 characters"),
    "too large": (b" " * (BODY_BYTES + 1), 413, "larger than 4,000 bytes"),
    "far too large": (b" " * 10_000_000, 413, "larger than 4,000 bytes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bodies_are_told_what_is_wrong(served, name):
    body, status, said = HOSTILE[name]
    answer = served.ask("/score", body)
    assert answer.status == status, answer.body
    assert said in answer.body.decode()
    ranking = served.ask("/rank", body.replace(b'"pairs"', b'"query": "mug", "items"'))
    assert ranking.status == status, ranking.body
    assert served.ask("/score", {"pairs": [PAIR]}).status == 200, "and the server goes on"


def test_a_huge_body_is_refused_whether_or_not_it_says_its_size(served):
    pieces = (b" " * 65_536 for _ in range(200))
    assert served.ask("/score", pieces).status == 413, "sent in chunks"
    assert served.ask("/score", b" " * 3_000_000, headers={"Connection": "close"}).status == 413
    with served.send(
        ["POST /score HTTP/1.1", "Content-Type: application/json", f"Content-Length: {DISCARDED + BODY_BYTES + 1}"]
    ) as early:
        assert early.recv(1000).startswith(b"HTTP/1.1 413"), "before it is sent"
    with served.send(
        ["POST /score HTTP/1.1", "Content-Type: application/json", "Content-Length: 5000", "Expect: 100-continue"]
    ) as asks:
        assert asks.recv(1000).startswith(b"HTTP/1.1 413"), "instead of 100 Continue"


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"Content-Type": "text/plain"}, "Content-Type"),
        ({"Content-Type": ""}, "Content-Type"),
        ({"Content-Encoding": "gzip"}, "Content-Encoding"),
    ],
)
def test_only_plain_json_is_read(served, headers, said):
    answer = served.ask("/score", {"pairs": [PAIR]}, headers=headers)
    assert (answer.status, said in answer.json()["error"]["message"]) == (415, True)


def test_what_is_no_http_is_refused(served):
    for sent in (
        b"nonsense\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000,
    ):
        with served.connect() as connection:
            connection.sendall(sent)
            assert connection.recv(1000).startswith(b"HTTP/1.1 400")


def test_unknown_places_and_methods_are_told_so(served):
    for path, method, status in (("/nowhere", "GET", 404), ("/score", "GET", 405), ("/page/../server.py", "GET", 404)):
        answer = served.ask(path, method=method)
        assert (answer.status, set(answer.json()["error"])) == (status, {"where", "message"})


def test_a_body_that_does_not_arrive_is_given_up(serve):
    served, _ = serve(limits={"seconds": 0.2})
    head = ["POST /score HTTP/1.1", "Content-Type: application/json", "Content-Length: 100"]
    with served.send(head, b'{"pairs"') as slow:
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_what_is_not_scored_in_time_leaves_the_queue(serve, scorer):
    served, service = serve(limits={"seconds": 0.3})
    scorer.go_on.clear()
    first = served.in_background("/score", {"pairs": [PAIR]})
    until(lambda: scorer.batches)
    second = served.in_background("/score", {"pairs": [PAIR] * 5})
    for thread, answers in (first, second):
        thread.join(20)
        assert answers[0].status == 504
    scorer.go_on.set()
    until(lambda: not service.batcher.waiting)
    assert served.ask("/score", {"pairs": [PAIR]}).status == 200
    assert scorer.batches == [1, 1], "the five were not scored for nobody"


def test_what_a_client_waits_for_no_longer_leaves_the_queue(serve, scorer):
    served, service = serve()
    scorer.go_on.clear()
    first = served.in_background("/score", {"pairs": [PAIR]})
    until(lambda: scorer.batches)
    body = json.dumps({"pairs": [PAIR] * 5}).encode()
    head = ["POST /score HTTP/1.1", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    with served.send(head, body):
        until(lambda: service.batcher.waiting == 5)
    until(lambda: service.accepted == 1)
    scorer.go_on.set()
    first[0].join(20)
    assert first[1][0].status == 200
    assert scorer.batches == [1]
    assert values(served)["lrkd_requests_total", "score", "499"] == 1


def test_beyond_the_queue_requests_are_told_to_come_later(serve, scorer):
    served, service = serve(limits={"items": 3, "waiting": 4})
    scorer.go_on.clear()
    running = [served.in_background("/score", {"pairs": [PAIR]})]
    until(lambda: scorer.batches)
    running.append(served.in_background("/score", {"pairs": [PAIR] * 3}))
    until(lambda: service.batcher.waiting == 3)
    refused = served.ask("/score", {"pairs": [PAIR] * 2})
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert served.ask("/ready").status == 200, "one more item finds room"
    running.append(served.in_background("/rank", {"query": "mug", "items": [{"title": "Mug"}]}))
    until(lambda: service.batcher.waiting == 4)
    ready = served.ask("/ready")
    assert (ready.status, ready.json()["status"]) == (503, "4 items wait already")
    assert served.ask("/rank", b" " * BODY_BYTES).status == 503, "before its body is looked at"
    assert served.ask("/health").status == 200
    scorer.go_on.set()
    for thread, answers in running:
        thread.join(20)
        assert answers[0].status == 200
    assert served.ask("/ready").json() == {"status": "ready"}


def test_a_shutdown_answers_what_was_accepted_and_refuses_the_rest(serve, scorer):
    served, service = serve()
    scorer.go_on.clear()
    accepted = served.in_background("/score", {"pairs": [PAIR]})
    until(lambda: scorer.batches)
    service.draining = True
    refused = served.ask("/score", {"pairs": [PAIR]})
    assert (refused.status, refused.headers["Connection"]) == (503, "close")
    assert "shutting down" in refused.json()["error"]["message"]
    assert (served.ask("/ready").status, served.ask("/health").status) == (503, 200)
    scorer.go_on.set()
    accepted[0].join(20)
    assert accepted[1][0].status == 200


def test_a_dead_scorer_is_no_healthy_server(serve, scorer):
    served, service = serve()
    service.batcher.close()
    assert (served.ask("/health").status, served.ask("/ready").status) == (500, 503)
    assert served.ask("/score", {"pairs": [PAIR]}).status == 503


def test_beyond_the_connections_clients_are_told_so(serve):
    served, _ = serve(limits={"connections": 2})
    held = [served.send(["GET /health HTTP/1.1"]) for _ in range(2)]
    assert all(connection.recv(1000).startswith(b"HTTP/1.1 200") for connection in held)
    assert served.ask("/health").status == 503
    for connection in held:
        connection.close()
    until(lambda: served.ask("/health").status == 200)


KEY = "a key of more than 16 characters"


def test_a_key_guards_what_tells_of_the_model(serve):
    served, _ = serve(api_key=KEY)
    body = {"pairs": [PAIR]}
    right = {"Authorization": f"Bearer {KEY}"}
    for wrong in ({}, {"Authorization": KEY}, {"Authorization": "Bearer other"}, {"Authorization": f"Basic {KEY}"}):
        for path, sent in (("/score", body), ("/rank", body), ("/about", None), ("/metrics", None)):
            answer = served.ask(path, sent, headers=wrong)
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    for path in (
        "/",
        "/docs",
        "/style.css",
        "/rank.js",
        "/api.js",
        "/make.js",
        "/icon.svg",
        "/openapi.json",
        "/health",
        "/ready",
    ):
        assert served.ask(path).status == 200, path
    assert served.ask("/score", body, headers=right).status == 200
    assert served.ask("/metrics", headers=right).status == 200
    document = served.ask("/openapi.json").json()
    assert document["paths"]["/score"]["post"]["security"] == [{"key": []}]


def values(served):
    """The samples of /metrics by name and labels' values."""
    families = text_string_to_metric_families(served.ask("/metrics").body.decode())
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def test_metrics_count_what_happened(serve):
    served, _ = serve()
    before = values(served)
    assert before["lrkd_labels_total", "Exact"] == before["lrkd_items_total", "scored"] == 0
    long = {"query": "red mug", "title": "red mug " * 10}  # 22 words of which 16 are read
    served.ask("/score", {"pairs": [PAIR, long, PAIR | {"title": "Blue mug"}, PAIR | {"title": NOT_A_NUMBER}, {}]})
    served.ask("/rank", {"query": "mug", "items": [{"title": "Tea towel"}]})
    served.ask("/rank", b"{")
    after = values(served)
    assert {key: value for key, value in after.items() if key[0] == "lrkd_requests_total"} == {
        ("lrkd_requests_total", "score", "200"): 1,
        ("lrkd_requests_total", "rank", "200"): 1,
        ("lrkd_requests_total", "rank", "400"): 1,
    }
    outcomes = [after["lrkd_items_total", outcome] for outcome in ("scored", "refused", "failed")]
    assert outcomes == [4, 1, 1]
    labels = [after["lrkd_labels_total", name] for name in ("Exact", "Substitute", "Complement", "Irrelevant")]
    assert labels == [2, 0, 1, 1]
    gains = {"Exact": 0.711, "Complement": 0.7 * 0.01 + 0.11, "Irrelevant": 0.111}
    assert after["lrkd_gain_sum",] == pytest.approx(2 * gains["Exact"] + gains["Complement"] + gains["Irrelevant"])
    assert (after["lrkd_gain_count",], after["lrkd_tokens_cut_total",], after["lrkd_items_cut_total",]) == (4, 6, 1)
    assert (after["lrkd_batch_items_sum",], after["lrkd_batch_items_count",]) == (5, 2)
    assert after["lrkd_request_seconds_count", "score"] == 1
    assert after["lrkd_ready",] == 1
    assert after["process_resident_memory_bytes",] > 1e6
    assert any(key[0] == "lrkd_model_info" and "stand_in" in key for key in after)


def test_scores_are_explained_by_the_nearest_rationales(serve):
    served, _ = serve(index=StandInIndex())
    items = [{"title": "Blue mug"}, {"title": 3}, {"title": "Red mug"}]
    answer = served.ask("/rank", {"query": "red mug", "items": items, "explain": 2}).json()["results"]
    exact, complement, error = answer
    assert "explanations" not in error
    told = [(e["perspective"], e["verdict"], e["similarity"]) for e in exact["explanations"]]
    assert [told[n] for n in (0, 2)] == [("business_rule", "Exact", 1.0), ("user_intent", "Exact", 1.0)]
    assert complement["explanations"][0] == {
        "perspective": "business_rule",
        "similarity": 1.0,
        "rationale": "It serves a kettle and is none.",
        "verdict": "Complement",
        "about": {"query": "green kettle", "title": "Descaler for kettles", "label": "Complement"},
    }
    assert len(complement["explanations"]) == 4
    plain = served.ask("/rank", {"query": "red mug", "items": items}).json()["results"]
    assert all("explanations" not in result for result in plain)


@pytest.mark.parametrize(
    ("latents", "about", "said"),
    [
        (None, {}, r"latents \(1, 4\) and not None"),
        (UNIT_LATENTS[..., :3], {}, r"latents \(1, 4\) and not \(1, 3\)"),
        (UNIT_LATENTS, {"method": "other", "seed": 2}, "method other and not stand_in, seed 2 and not 0"),
        (UNIT_LATENTS, {"fold": None}, "fold None and not 1"),
    ],
)
def test_rationales_of_another_student_are_refused(tmp_path, latents, about, said):
    index = StandInIndex()
    index.about = index.about | about
    with pytest.raises(UserError, match=rf"explanations: made for another student \({said}\)"):
        prepare(StandInScorer(latents=latents), index, [], tmp_path)


def test_the_documented_schema_holds_for_requests_and_answers(serve):
    served, _ = serve(index=StandInIndex())
    document = served.ask("/openapi.json").json()
    assert document["openapi"].startswith("3.1")

    def check(name, value):
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema.Draft202012Validator(schema).validate(value)

    for path, operation in document["paths"].items():
        if "post" not in operation:
            assert served.ask(path).status == 200
            continue
        body = operation["post"]["requestBody"]["content"]["application/json"]
        name = body["schema"]["$ref"].split("/")[-1]
        answers = [served.ask(path, body["example"] | {"explain": n}) for n in (0, 1)]
        check(name, body["example"])
        assert [answer.status for answer in answers] == [200, 200]
        for answer in answers:
            check("Results", answer.json())
        check("Refusal", served.ask(path, {}).json())
        with pytest.raises(jsonschema.ValidationError):
            check(name, body["example"] | {"explain": 6})
    wrong = served.ask("/score", {"pairs": [{"query": "a", "title": 3}]})
    check("Results", wrong.json())


def test_about_tells_what_a_client_must_know(serve):
    served, service = serve(index=StandInIndex())
    about = served.ask("/about").json()
    assert about["labels"][1] == {"name": "Substitute", "gain": 0.1}
    assert (about["method"], about["fields"], about["max_length"]) == ("stand_in", ["title"], 16)
    assert about["explanations"] == {"rationales": 6, "perspectives": ["business_rule", "user_intent"]}
    assert about["limits"] == {"items": 256, "characters": 10_000, "neighbours": 5}
    assert about["examples"] == list(service.model.examples)


def test_pages_load_nothing_from_elsewhere(served):
    for path in ("/", "/docs"):
        page = served.ask(path)
        assert page.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
        named = re.findall(r'(?:src|href)="([^"]+)"', page.body.decode())
        assert len(named) >= 4
        for name in named:
            assert served.ask("/" + name.removeprefix("./")).status == 200, name
    style = served.ask("/style.css").body.decode()
    assert "url(" not in style
    assert "@import" not in style


def test_many_clients_at_once_get_their_own_answers(serve, scorer):
    served, _ = serve()
    titles = ["Red mug", "Blue mug", "Tea towel"]
    expected = {"Red mug": "Exact", "Blue mug": "Complement", "Tea towel": "Irrelevant"}
    wrong = []

    def ask(seed):
        for n in range(15):
            chosen = [titles[(seed + n + k) % 3] for k in range(1 + seed % 4)]
            answer = served.ask("/score", {"pairs": [{"query": "red mug", "title": title} for title in chosen]})
            said = [result["label"] for result in answer.json()["results"]]
            if said != [expected[title] for title in chosen]:
                wrong.append((chosen, said))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert sum(scorer.batches) == sum(15 * (1 + seed % 4) for seed in range(8))


@pytest.mark.parametrize("text", ["{", "[]x", '[{"query": "a"}]', '{"query": "a"}', '[{"query": "a", "items": ["b"]}]'])
def test_broken_examples_name_their_file(tmp_path, monkeypatch, text):
    from lrkd.serve import model

    file = tmp_path / "examples.json"
    file.write_text(text)
    with pytest.raises(UserError, match=r"examples\.json: wants"):
        model._examples(file)


def test_shipped_examples_are_read(tmp_path):
    from lrkd.serve import model

    examples = model._examples(tmp_path / "examples.json")
    assert len(examples) >= 3
    assert all(item["title"] for example in examples for item in example["items"])


def test_no_model_is_named(tmp_path):
    pytest.importorskip("lrkd.serve.scorer")
    with pytest.raises(UserError, match="nowhere"):
        open_model(tmp_path / "nowhere")
