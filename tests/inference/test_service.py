"""The HTTP service: right answers together or alone, and a 4xx for whatever is wrong."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.data import REPOSITORY, squad_data

pytest.importorskip("fastapi", reason="needs the optional extra serve")
pytest.importorskip("uvicorn", reason="needs the optional extra serve")

from starlette.testclient import TestClient

from qa_lightning.commands import serve
from qa_lightning.errors import UserError
from qa_lightning.inference import server
from qa_lightning.inference.answerer import Answer, Answerer
from qa_lightning.inference.batcher import Batcher, TooManyWaitingError
from qa_lightning.inference.defaults import LONG, Limits
from qa_lightning.inference.service import FILES, WEB, create_app
from tests.helpers.serving import LastWord, running

JSON = {"Content-Type": "application/json"}
LIMITS = Limits(body=5_000, context=1_000, question=100)
ASKED = {"question": "Is it Oslo?", "context": "It is Oslo."}


@pytest.fixture(scope="module")
def answerer(tiny_encoder: Path) -> Answerer:
    return Answerer.from_pretrained(tiny_encoder, device="cpu", precision="32-true")


@pytest.fixture(scope="module")
def client(answerer: Answerer) -> Iterator[TestClient]:
    """The service with a real, if tiny, model."""
    with (
        Batcher(answerer) as batcher,
        TestClient(
            create_app(batcher, LIMITS),
            base_url="http://127.0.0.1:8000",
            raise_server_exceptions=False,
        ) as client,
    ):
        yield client


class Gate(LastWord):
    """Keeps its first batch until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, questions: Sequence[str], *arguments: Any, **options: Any) -> list[Answer]:
        self.entered.set()
        assert self.opened.wait(30)
        return super().__call__(questions, *arguments, **options)


def questions(count: int) -> list[tuple[str, str]]:
    """Questions and contexts of different lengths."""
    asked = [
        (qa["question"], paragraph["context"])
        for article in squad_data(count, seed=5)["data"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    return asked[:count]


# --- Answers


def test_an_answer_is_that_of_the_answerer(client: TestClient, answerer: Answerer) -> None:
    for question, context in [*questions(5), ("Where 🚣 is é?", "Oslo 🚣🚣 is in the north, Åse.")]:
        response = client.post(
            "/answer",
            json={"question": question, "context": context, "top_k": 20, "threshold": 99},
        )
        assert response.status_code == 200
        found = response.json()
        assert found == json.loads(
            json.dumps(asdict(answerer(question, context, top_k=20, threshold=99)))
        )
        assert found["text"] and context[found["start"] : found["end"]] == found["text"]
    verdict = client.post("/answer", json=ASKED | {"threshold": -99}).json()
    assert (verdict["text"], verdict["start"], verdict["end"]) == ("", None, None)
    assert len(verdict["candidates"]) == min(3, len(found["candidates"]))


def test_together_they_get_the_answers_that_each_gets_alone(answerer: Answerer) -> None:
    asked = questions(64)
    alone = [answerer(question, context, threshold=99) for question, context in asked]
    sizes = []

    class Counting(LastWord):
        def __call__(self, questions: Sequence[str], *rest: Any, **options: Any) -> list[Answer]:
            sizes.append(len(questions))
            return answerer(questions, *rest, **options)

    with Batcher(Counting(), max_batch=16, max_wait=0.5) as batcher:  # type: ignore[arg-type]
        coming = [batcher.submit(*one, threshold=99) for one in asked]
        together = [one.result(60) for one in coming]
    assert sizes == [16, 16, 16, 16]
    for one, other in zip(alone, together, strict=True):
        # Sums of floats in another order differ in their last digits; the answers do not.
        assert (one.text, one.start, one.end) == (other.text, other.start, other.end)
        assert one.score == pytest.approx(other.score, abs=1e-4)


def test_questions_that_come_while_the_model_works_are_answered_together() -> None:
    gate = Gate()
    with Batcher(gate, max_batch=8, max_wait=0) as batcher:  # type: ignore[arg-type]
        first = batcher.submit("Is it a?", "a")
        assert gate.entered.wait(30)
        rest = [batcher.submit(f"Is it {n}?", f"{n}") for n in range(10)]
        assert batcher.waiting == 10
        gate.opened.set()
        assert first.result(30).text == "a"
        assert [one.result(30).text for one in rest] == [str(n) for n in range(10)]
    assert [len(batch) for batch in gate.batches] == [1, 8, 2]


def test_each_question_keeps_its_own_options_in_a_batch() -> None:
    with Batcher(LastWord(), max_wait=0.2) as batcher:  # type: ignore[arg-type]
        text = "to be or not to be"
        many = batcher.submit("Is it be?", text, top_k=2)
        few = batcher.submit("Is it to?", text, top_k=1, threshold=2.5)
        again = batcher.submit("Is it to?", text, top_k=2)
        assert [len(one.result(30).candidates) for one in (many, few, again)] == [2, 1, 2]
        assert [one.result().threshold for one in (many, few, again)] == [0, 2.5, 0]
        assert [one.result().text for one in (many, few, again)] == ["be", "to", "to"]


# --- What one client does must not hurt another


def test_a_question_that_fails_fails_alone() -> None:
    class Picky(LastWord):
        def __call__(self, questions: Sequence[str], *rest: Any, **options: Any) -> list[Answer]:
            if "bad" in questions:
                raise UserError("a bad question")
            if "worse" in questions:
                raise ZeroDivisionError
            return super().__call__(questions, *rest, **options)

    with (
        Batcher(Picky(), max_wait=0.2) as batcher,  # type: ignore[arg-type]
        TestClient(
            create_app(batcher), base_url="http://localhost", raise_server_exceptions=False
        ) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        asked = ["Is it a?", "bad", "worse", "Is it b?"]
        send = lambda question: client.post("/answer", json={"question": question, "context": "ab"})  # noqa: E731
        good, bad, worse, too = pool.map(send, asked)
    assert (good.json()["text"], too.json()["text"]) == ("a", "b")
    assert (bad.status_code, bad.json()) == (422, {"error": "a bad question"})
    assert worse.status_code == 500, "an error in the program is not the client's fault"
    assert worse.json() == {"error": "an error in the service; its log says more"}


def test_too_many_waiting_are_turned_away_and_may_come_again() -> None:
    gate = Gate()
    with (
        Batcher(gate, max_wait=0, max_waiting=2) as batcher,  # type: ignore[arg-type]
        TestClient(create_app(batcher), base_url="http://localhost") as client,
    ):
        first = batcher.submit("Is it a?", "a")
        assert gate.entered.wait(30)
        rest = [batcher.submit("Is it b?", "b") for _ in range(2)]
        with pytest.raises(TooManyWaitingError):
            batcher.submit("Is it c?", "c")
        assert client.get("/health").json()["waiting"] == 2
        refused = client.post("/answer", json=ASKED)
        assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1
        assert "too many" in refused.json()["error"]
        gate.opened.set()
        assert [one.result(30).text for one in (first, *rest)] == ["a", "b", "b"]
        assert client.post("/answer", json=ASKED).status_code == 200


def test_closing_cancels_those_that_wait_and_finishes_those_at_work() -> None:
    gate = Gate()
    batcher = Batcher(gate, max_wait=0)  # type: ignore[arg-type]
    first = batcher.submit("Is it a?", "a")
    assert gate.entered.wait(30)
    second = batcher.submit("Is it b?", "b")
    gate.opened.set()
    batcher.close()
    assert first.result(0).text == "a"
    with suppress(CancelledError):  # unless it was taken before the batcher was closed
        assert second.result(0).text == "b"
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit("Is it c?", "c")


LONG_TEXT = "a " * LONG


class Slow(LastWord):
    """Takes steps without end for long texts, until it is told to end."""

    def __init__(self) -> None:
        super().__init__()
        self.started, self.dropped, self.ending = (threading.Event() for _ in range(3))

    def steps(self, questions: Any, contexts: Any, **options: Any) -> Iterator[list[Answer]]:
        if len(contexts[0]) > LONG:
            self.started.set()
            try:
                while not self.ending.wait(0.001):
                    yield []
            except GeneratorExit:
                self.dropped.set()
                raise
        yield self(questions, contexts, **options)


def test_a_short_question_takes_its_turn_between_the_steps_of_a_long_one() -> None:
    slow = Slow()
    with Batcher(slow) as batcher:  # type: ignore[arg-type]
        long = [batcher.submit("Is it a?", LONG_TEXT) for _ in range(2)]
        assert slow.started.wait(30)
        assert batcher.submit("Is it b?", "b").result(30).text == "b"
        assert not long[0].done() and batcher.waiting == 1
        slow.ending.set()
        assert [one.result(30).text for one in long] == ["a", "a"]


def test_a_question_taken_back_is_not_answered_any_further() -> None:
    slow = Slow()
    with Batcher(slow, max_waiting=1) as batcher:  # type: ignore[arg-type]
        at_work = batcher.submit("Is it a?", LONG_TEXT)
        assert slow.started.wait(30)
        waiting = batcher.submit("Is it a?", LONG_TEXT)
        with pytest.raises(TooManyWaitingError):
            batcher.submit("Is it a?", LONG_TEXT)
        assert waiting.cancel() and batcher.waiting == 0, "it gives its place to another"
        assert at_work.cancel()
        assert slow.dropped.wait(30)
        slow.ending.set()
        assert batcher.submit("Is it a?", LONG_TEXT).result(30).text == "a"
    assert len(slow.batches) == 1


def test_the_queue_is_bounded_in_characters() -> None:
    slow = Slow()
    with Batcher(slow, max_characters=3 * len(LONG_TEXT)) as batcher:  # type: ignore[arg-type]
        batcher.submit("Is it a?", LONG_TEXT * 4)
        assert slow.started.wait(30), "a question alone is never too long"
        for _ in range(2):
            batcher.submit("Is it a?", LONG_TEXT)
        with pytest.raises(TooManyWaitingError):
            batcher.submit("Is it a?", LONG_TEXT)
        assert batcher.submit("Is it b?", "b").result(30).text == "b", "short ones have room"


def test_a_batch_is_bounded_in_characters() -> None:
    gate = Gate()
    with Batcher(gate, max_wait=0) as batcher:  # type: ignore[arg-type]
        first = batcher.submit("Is it a?", "a")
        assert gate.entered.wait(30)
        rest = [batcher.submit("Is it a?", "a" * (LONG - 8)) for _ in range(20)]
        gate.opened.set()
        for one in (first, *rest):
            one.result(30)
    assert [len(batch) for batch in gate.batches] == [1, 8, 8, 4]


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    slow = Slow()
    with (
        Batcher(slow) as batcher,  # type: ignore[arg-type]
        TestClient(create_app(batcher, Limits(seconds=0.2)), base_url="http://localhost") as client,
    ):
        late = client.post("/answer", json={"question": "Is it a?", "context": LONG_TEXT})
        assert late.status_code == 503 and "took too long" in late.json()["error"]
        assert slow.dropped.wait(30)


def test_the_work_of_a_client_that_leaves_is_dropped() -> None:
    slow = Slow()
    with Batcher(slow) as batcher, running(create_app(batcher)) as address:  # type: ignore[arg-type]
        leaving = [connect(address) for _ in range(3)]
        for one in leaving:
            one.sendall(raw({"question": "Is it a?", "context": LONG_TEXT}))
        assert slow.started.wait(30)
        for one in leaving:
            one.close()
        assert slow.dropped.wait(30)
        assert post(address, json.dumps(ASKED).encode())[0] == 200
        assert batcher.waiting == 0
    assert slow.batches == [[ASKED["question"]]]


def test_whoever_waits_when_the_service_ends_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LAST_SECONDS", 0.3)
    slow = Slow()
    with Batcher(slow) as batcher:  # type: ignore[arg-type]
        with running(create_app(batcher), batcher.stop) as address:
            waiting = [connect(address) for _ in range(5)]
            for one in waiting:
                one.sendall(raw({"question": "Is it a?", "context": LONG_TEXT}))
            half = connect(address)
            half.sendall(raw(ASKED)[:-5])
            assert slow.started.wait(30)
            while batcher.waiting < 4:
                time.sleep(0.01)
        for one in (*waiting, half):
            reply = everything(one)
            assert reply.startswith(b"HTTP/1.1 503 ") and b"the service is ending" in reply


# --- Connections


def connect(address: str) -> socket.socket:
    where = urlsplit(address)
    return socket.create_connection((where.hostname, where.port), timeout=30)


def raw(asked: dict[str, str], *headers: str) -> bytes:
    """The bytes of a request."""
    content = json.dumps(asked).encode()
    head = ["POST /answer HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    return "\r\n".join([*head, f"Content-Length: {len(content)}", "", ""]).encode() + content


def everything(connection: socket.socket) -> bytes:
    """What a connection gives until it is closed."""
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /answer HTT", raw(ASKED)[:60], raw(ASKED)[:-5], raw(ASKED) + raw(ASKED)[:-5]],
    ids=["nothing", "a line", "a header", "a body", "a second body"],
)
def test_half_a_request_is_not_waited_for_long(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.3)
    with Batcher(LastWord()) as batcher, running(create_app(batcher)) as address:  # type: ignore[arg-type]
        connection = connect(address)
        connection.sendall(sent)
        reply = everything(connection)
        assert reply.count(b"HTTP/1.1 200") == sent.count(b"}")
        assert b"HTTP/1.1 408" in reply and b"did not arrive in time" in reply


def test_a_client_that_reads_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_SECONDS", 0.3)
    with Batcher(LastWord()) as batcher, running(create_app(batcher)) as address:  # type: ignore[arg-type]
        connection = connect(address)
        with pytest.raises(OSError):  # reset, where writing would otherwise wait for ever
            for _ in range(100_000):
                connection.sendall(b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10)
        connection.close()


def test_new_connections_take_the_place_of_those_that_send_no_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "max_connections", lambda: 8)
    gate = Gate()
    with (
        Batcher(gate) as batcher,  # type: ignore[arg-type]
        running(create_app(batcher)) as address,
        ThreadPoolExecutor(1) as pool,
    ):
        answered = pool.submit(post, address, raw(ASKED).partition(b"\r\n\r\n")[2])
        assert gate.entered.wait(30)
        idle = [connect(address) for _ in range(30)]
        assert b"503" in everything(idle[0]) and b"too many connections" in everything(idle[1])
        gate.opened.set()
        assert post(address, json.dumps(ASKED).encode())[0] == 200
        assert answered.result(30)[0] == 200, "a question that is being answered keeps its place"
        for one in idle:
            one.close()


def test_many_connections_leave_files_for_the_process() -> None:
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert 0 < server.max_connections() <= files // 2


def test_two_lengths_are_refused_and_the_connection_closed() -> None:
    with Batcher(LastWord()) as batcher, running(create_app(batcher)) as address:  # type: ignore[arg-type]
        connection = connect(address)
        head, _, content = raw(ASKED, "Transfer-Encoding: chunked").partition(b"\r\n\r\n")
        chunked = b"%b\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (head, len(content), content)
        connection.sendall(chunked + b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        reply = everything(connection)
        assert reply.startswith(b"HTTP/1.1 400 ") and b"not both" in reply
        assert reply.count(b"HTTP/1.1") == 1


def test_what_is_not_http_is_told_in_json() -> None:
    with Batcher(LastWord()) as batcher, running(create_app(batcher)) as address:  # type: ignore[arg-type]
        for sent in (b"hello\r\n\r\n", raw(ASKED) + b"hello\r\n\r\n"):
            connection = connect(address)
            connection.sendall(sent)
            assert b'{"error": "this is not a valid HTTP request"}' in everything(connection)


# --- Others


def test_a_client_that_leaves_does_not_disturb_others(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    with (
        Batcher(gate, max_wait=0) as batcher,  # type: ignore[arg-type]
        running(create_app(batcher)) as address,
        ThreadPoolExecutor(2) as pool,
    ):
        where = urlsplit(address)
        body = json.dumps(ASKED).encode()
        leaving = socket.create_connection((where.hostname, where.port))
        head = f"POST /answer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        leaving.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
        assert gate.entered.wait(30)
        leaving.close()
        half = socket.create_connection((where.hostname, where.port))
        half.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body[:5])
        half.close()
        staying = pool.submit(post, address, body)
        gate.opened.set()
        status, content = staying.result(30)
    assert (status, content["text"]) == (200, "Oslo")
    assert not caplog.records, "to leave is no error"


def post(address: str, body: Any, headers: dict[str, str] = JSON) -> tuple[int, Any]:
    """Status and JSON of what a real service says; an iterable body goes in chunks."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    try:
        connection.request(
            "POST", "/answer", body, headers, encode_chunked=not isinstance(body, bytes)
        )
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


# --- Malformed and oversized requests


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"", 400, "Invalid JSON"),
        (b"question=a", 400, "Invalid JSON"),
        (b'{"question": "a", "context": ', 400, "Invalid JSON"),
        (b'{"question": "\xff", "context": "a"}', 400, "Invalid JSON"),
        (b'{"question": "\xed\xa0\x80", "context": "a"}', 400, "Invalid JSON"),
        (b'{"question": "\\ud800", "context": "a"}', 400, "Invalid JSON"),
        ('{"question": "a", "context": "a"}'.encode("utf-16"), 400, "Invalid JSON"),
        (b"[" * 2000 + b"]" * 2000, 400, "Invalid JSON"),
        (b'{"a":' * 700 + b"1" + b"}" * 700, 400, "Invalid JSON"),
        (b"null", 422, "send an object"),
        (b'["a", "a"]', 422, "send an object"),
        (b'{"question": "a"}', 422, "context: Field required"),
        (b'{"question": 1, "context": "a"}', 422, "question: Input should be a valid string"),
        (b'{"question": " ", "context": "a"}', 422, "the question is empty"),
        (b'{"question": "a", "context": "\\n"}', 422, "the context is empty"),
        (b'{"question": "a", "context": "a", "top_n": 1}', 422, "top_n: Extra"),
        (b'{"question": "a", "context": "a", "top_k": 21}', 422, "top_k: Input should be less"),
        (b'{"question": "a", "context": "a", "top_k": -1}', 422, "top_k: Input should be gr"),
        (b'{"question": "a", "context": "a", "top_k": 1.5}', 422, "top_k: Input should be"),
        (b'{"question": "a", "context": "a", "top_k": true}', 422, "top_k: Input should be"),
        (b'{"question": "a", "context": "a", "top_k": 1' + b"0" * 99 + b"}", 422, "top_k"),
        (b'{"question": "a", "context": "a", "top_k": 1' + b"0" * 4500 + b"}", 400, "number"),
        (b'{"question": "a", "context": "a", "threshold": NaN}', 422, "threshold: "),
        (b'{"question": "a", "context": "a", "threshold": -Infinity}', 422, "threshold: "),
        (b'{"question": "a", "context": "a", "threshold": 1e999}', 422, "threshold: "),
        (b'{"question": "a", "context": "a", "threshold": 1' + b"0" * 400 + b"}", 422, "threshold"),
        (b'{"question": "a", "context": "a", "threshold": "1"}', 422, "threshold: "),
    ],
)
def test_a_wrong_body_is_refused_with_a_reason(
    client: TestClient, body: bytes, status: int, told: str
) -> None:
    response = client.post("/answer", content=body, headers=JSON)
    assert response.status_code == status
    assert told in response.json()["error"]


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "a/b/c"])
def test_another_type_than_json_is_refused(client: TestClient, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    response = client.post("/answer", content=json.dumps(ASKED).encode(), headers=headers)
    assert response.status_code == 415 and "application/json" in response.json()["error"]


def test_limits_hold_to_the_character(client: TestClient) -> None:
    for name, limit in (("question", LIMITS.question), ("context", LIMITS.context)):
        for character in ("a", "é", "🚣"):
            text = {**ASKED, name: character * limit}
            assert client.post("/answer", json=text).status_code == 200
            text = {**ASKED, name: character * (limit + 1)}
            refused = client.post("/answer", json=text)
            assert refused.status_code == 413
            assert f"the {name} has {limit + 1:,} characters" in refused.json()["error"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_read_no_further_than_allowed(client: TestClient, chunked: bool) -> None:
    whole = json.dumps(ASKED).encode()
    for size, status in ((LIMITS.body, 200), (LIMITS.body + 1, 413)):
        body = whole + b" " * (size - len(whole))
        content = (body[at : at + 999] for at in range(0, len(body), 999)) if chunked else body
        response = client.post("/answer", content=content, headers=JSON)
        assert response.status_code == status
    assert "5,000 bytes" in response.json()["error"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_huge_upload_is_told_why_it_is_refused(chunked: bool) -> None:
    """Over a real connection, to a client that reads nothing before it has sent all."""
    with Batcher(LastWord()) as batcher, running(create_app(batcher)) as address:  # type: ignore[arg-type]
        part = b" " * 1_000_000
        body = (part for _ in range(8)) if chunked else part * 8
        assert post(address, body)[0] == 413
        assert post(address, json.dumps(ASKED).encode())[0] == 200


FUZZ = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=50)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=120) | st.sampled_from(
    ["\0", "\u200b", "\ufeff", "\u0301", "🚣", "[CLS]", "[PAD] [SEP]", "a" * 101, "a b " * 400]
)
NEARLY = st.fixed_dictionaries(
    {"question": TEXTS, "context": TEXTS},
    optional={
        "top_k": st.integers(-2, 30) | SCALARS,
        "threshold": st.floats() | st.integers() | SCALARS,
        "other": VALUES,
    },
)


def is_told(response: Any) -> bool:
    """Whether a response is an answer, or a 4xx with a reason."""
    if response.status_code == 200:
        return set(response.json()) == {field for field in Answer.__dataclass_fields__}
    error = response.json()["error"]
    return 400 <= response.status_code < 500 and isinstance(error, str) and 5 < len(error) < 1000


@FUZZ
@given(
    body=st.binary(max_size=300)
    | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_no_bytes_break_it(client: TestClient, body: bytes) -> None:
    assert is_told(client.post("/answer", content=body, headers=JSON))


@FUZZ
@given(value=VALUES | NEARLY)
def test_no_json_breaks_it(client: TestClient, value: Any) -> None:
    assert is_told(client.post("/answer", content=json.dumps(value).encode(), headers=JSON))


@FUZZ
@given(asked=NEARLY, cut=st.integers(0, 200), changed=st.integers(0, 255))
def test_no_damage_to_a_right_body_breaks_it(
    client: TestClient, asked: dict[str, Any], cut: int, changed: int
) -> None:
    body = bytearray(json.dumps(asked, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    body[min(cut, len(body) - 1)] = changed
    assert is_told(client.post("/answer", content=bytes(body), headers=JSON))


@FUZZ
@given(asked=st.fixed_dictionaries({"question": TEXTS, "context": TEXTS}))
def test_any_text_may_be_asked(client: TestClient, asked: dict[str, str]) -> None:
    """Whatever characters: an answer, unless empty or too long."""
    response = client.post("/answer", json=asked | {"threshold": 1e9})
    assert is_told(response)
    fits = len(asked["question"]) <= LIMITS.question and len(asked["context"]) <= LIMITS.context
    if fits and asked["question"].strip() and asked["context"].strip():
        assert response.status_code == 200
        found = response.json()
        if found["start"] is not None:
            assert asked["context"][found["start"] : found["end"]] == found["text"]


TOKEN = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=12)


@FUZZ
@given(
    method=st.sampled_from("GET HEAD POST PUT PATCH DELETE OPTIONS TRACE".split()) | TOKEN,
    path=st.sampled_from(["/", "/answer", "/answer/", "/health", "/openapi.json", "/redoc", "/.."])
    | st.text(max_size=30).map(lambda text: "/" + text.encode("utf-8", "replace").decode()),
    headers=st.dictionaries(
        st.sampled_from(["Content-Type", "Host", "Origin", "Accept", "Content-Encoding", "Range"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
    ),
)
def test_no_method_path_or_header_breaks_it(
    client: TestClient, method: str, path: str, headers: dict[str, str]
) -> None:
    from urllib.parse import quote

    response = client.request(method, quote(path), headers=headers, content=b"{}")
    assert response.status_code < 500
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    if response.status_code >= 400 and method != "HEAD":
        assert response.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/answer", 405),
        ("POST", "/", 405),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/redoc", 404),
    ],
)
def test_a_wrong_address_is_told(client: TestClient, method: str, path: str, status: int) -> None:
    response = client.request(method, path)
    assert response.status_code == status and "/docs" in response.json()["error"]


# --- Names, headers, pages


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LocalHost:8000", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("192.168.1.7", 200),
        ("desk.lan:8000", 200),
        ("evil.example", 421),
        ("evil.example:8000", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("user@evil.example", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
def test_a_foreign_name_is_turned_away(host: str, status: int) -> None:
    with Batcher(LastWord()) as batcher:  # type: ignore[arg-type]
        client = TestClient(create_app(batcher, host_names=["Desk.lan"]))
        response = client.get("/health", headers={"Host": host})
        assert response.status_code == status
        if status == 421:
            assert "--allow_host" in response.json()["error"]


def test_every_response_is_private_and_strict(client: TestClient) -> None:
    responses = [client.get(address) for address in (*FILES, "/health", "/openapi.json", "/x")]
    responses += [client.post("/answer", json=ASKED), client.post("/answer", content=b"x")]
    responses += [client.get("/", headers={"Host": "evil.example"})]
    for response in responses:
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert "Access-Control-Allow-Origin" not in response.headers
    assert [response.status_code for response in responses[: len(FILES) + 2]] == [200] * (
        len(FILES) + 2
    )


def test_the_pages_load_nothing_from_elsewhere_and_write_no_markup() -> None:
    assert {path.name for path in WEB.iterdir()} == {name for name, _ in FILES.values()}
    for path in WEB.iterdir():
        text = path.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"//[a-z]|@import|url\(|innerHTML|outerHTML|\bon[a-z]+=", text), path


def test_the_interface_is_described(client: TestClient) -> None:
    api = client.get("/openapi.json").json()
    assert set(api["paths"]) == {"/answer", "/health"}
    post = api["paths"]["/answer"]["post"]
    asked = post["requestBody"]["content"]["application/json"]["schema"]
    assert set(asked["properties"]) == {"question", "context", "top_k", "threshold"}
    assert asked["required"] == ["question", "context"]
    lengths = [asked["properties"][name]["maxLength"] for name in ("question", "context")]
    assert lengths == [LIMITS.question, LIMITS.context]
    assert set(post["responses"]) == {"200", "400", "408", "413", "415", "421", "422", "503"}
    answer = api["components"]["schemas"]["Answer"]["properties"]
    assert set(answer) == set(Answer.__dataclass_fields__)
    assert answer["start"]["description"].startswith("Its first character in the context")
    for schema in api["components"]["schemas"].values():
        assert "Attributes" not in schema["description"]
    assert "1,000 characters, a question 100" in api["info"]["description"]
    health = client.get("/health").json()
    assert health["status"] == "ok" and health["waiting"] == 0


# --- The command


def test_a_port_in_use_is_told_before_the_model_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"cannot listen at 127.0.0.1, port {port}: .*in use.*--port"
        ):
            serve.run(["no-such-model", "--port", str(port)])


def test_an_unknown_address_and_a_missing_package_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--host a+: there is no such address"):
        serve.run(["no-such-model", "--host", "a" * 100])  # no name service is asked for it
    with pytest.raises(UserError, match="cannot listen at 192.0.2.1, port 0: .*assign"):
        serve.run(["no-such-model", "--host", "192.0.2.1", "--port", "0"])  # not this machine's
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else name)
    with pytest.raises(UserError, match=r"needs uvicorn: pip install 'qa-lightning\[serve\]'"):
        serve.run(["no-such-model"])


@pytest.mark.parametrize(
    "options",
    [
        ["--max_batch", "0"],
        ["--max_wait_ms", "-1"],
        ["--port", "70000"],
        ["--threshold", "nan"],
        ["--max_contxt", "5"],
    ],
)
def test_a_wrong_option_is_told(options: list[str]) -> None:
    with pytest.raises(UserError, match=options[0]):
        serve.run(["no-such-model", *options])


def test_the_command_serves_until_it_is_interrupted(tiny_encoder: Path, answerer: Answerer) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "qa_lightning", "serve", str(tiny_encoder), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", first)
        assert address, process.stderr.read() if process.stderr else first
        status, found = post(address[0], json.dumps(ASKED).encode())
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert status == 200
    assert found["text"] == answerer(ASKED["question"], ASKED["context"]).text
    assert (process.returncode, out) == (0, "")
    assert re.fullmatch(r"precision: .*\n", err)
