"""A photo's way from its bytes to the backend's answer has one bound, its turn included."""

import asyncio
import json
import threading

import httpx
import pytest
from starlette.requests import ClientDisconnect

from handler.cost import LEAST
from scripts.backend.answer import Answer
from scripts.door.errors import DoorError
from scripts.door.forms.body import Body
from scripts.door.predictions import LARGE_AT_A_TIME, LARGE_BYTES, UNKNOWN_CPU_S
from scripts.door.state import State
from scripts.door.times import Times
from scripts.settings import Settings
from tests.conftest import LIMIT_S, picture_bytes
from tests.door.asking import ask
from tests.door.without_server import application_of, predictions

STATE = State(models={"seefood": {"default": "1", "versions": {"1": {}}}})
URLS = {
    "ours": ("/predictions/seefood", {"content": b"a photo"}),
    "heat map": ("/explanations/seefood", {"content": b"a photo"}),
    "several": ("/v1/models/seefood:predict", {"json": {"instances": ["YWJj", "YWJj", "YWJj"]}}),
}


class Hung:
    """A backend whose worker hangs: nothing is answered."""

    def __init__(self):
        self.asked = 0

    async def ask(self, question):
        self.asked += 1
        await asyncio.Event().wait()

    def close(self):
        pass


@pytest.mark.parametrize("way", URLS)
def test_waiting_and_the_backend_have_one_bound_and_no_place_is_lost(way):
    limit_s, count = 0.5, 8
    backend = Hung()
    way_in = predictions(STATE, backend, Settings(answer_timeout_s=limit_s, worker_requests=1))
    path, options = URLS[way]

    async def once(client):
        loop = asyncio.get_running_loop()
        began = loop.time()
        answer = await client.post(path, **options)
        return answer, loop.time() - began

    async def story():
        transport = httpx.ASGITransport(application_of(way_in))
        async with httpx.AsyncClient(transport=transport, base_url="http://door", trust_env=False) as client:
            return await asyncio.gather(*(once(client) for _ in range(count)))

    for answer, took_s in asyncio.run(story()):
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["type"] == "UnavailableError"
        assert limit_s <= took_s < 3 * limit_s, "as long as one time-out, not as one for each in front"
    assert backend.asked < count, "some were waiting"
    for admission in (way_in.admission, way_in.heat_maps):
        assert (admission.running, admission.running_bytes, admission.waiting) == (0, 0, 0)
        assert (admission.running_cpu_s, admission.waiting_cpu_s) == pytest.approx((0, 0))
    assert way_in.bytes_in_flight.held == 0


def test_photo_that_hides_its_size_waits_as_the_dearest_that_a_worker_takes():
    way_in = predictions(STATE)
    photo = picture_bytes(1)
    hidden = photo[:2] + b"\xff\xe1\0\2" * 3000 + photo[2:]
    budget_s = way_in.admission.limits.running_cpu_s
    assert way_in._cost("seefood", None, hidden, explain=False).cpu_s == budget_s / 2 + UNKNOWN_CPU_S
    assert way_in._cost("seefood", None, photo, explain=False).cpu_s < 5 * LEAST.cpu_s + UNKNOWN_CPU_S


def test_upload_that_is_whole_does_not_give_way_while_it_is_read(monkeypatch):
    """Its thread goes on whatever becomes of it: what it holds would be counted as free, and its place as one for another."""
    limit = 3 * LARGE_BYTES
    way_in = predictions(STATE, settings=Settings(upload_bytes=limit))
    reading, go_on = threading.Event(), threading.Event()
    close = Body.close

    def slow_close(body):
        if not reading.is_set():
            reading.set()
            go_on.wait(LIMIT_S)
        return close(body)

    monkeypatch.setattr(Body, "close", slow_close)

    async def story():
        transport = httpx.ASGITransport(application_of(way_in))
        async with httpx.AsyncClient(transport=transport, base_url="http://door", trust_env=False) as client:
            first = asyncio.create_task(client.post("/predictions/seefood", content=bytes(2 * LARGE_BYTES)))
            await asyncio.to_thread(reading.wait, LIMIT_S)
            second = await client.post("/predictions/seefood", content=bytes(LARGE_BYTES + LARGE_BYTES // 2))
            go_on.set()
            return await first, second

    first, second = asyncio.run(story())
    assert "too many uploads" in second.json()["message"]
    assert "no worker answers" in first.json()["message"], "it was asked for"


def test_threads_that_read_are_few_whatever_their_clients_do(monkeypatch):
    way_in = predictions(STATE)
    started, go_on = [], threading.Event()

    def slow_close(body):
        started.append(body)
        go_on.wait(LIMIT_S)
        raise DoorError("nobody reads this")

    monkeypatch.setattr(Body, "close", slow_close)

    async def story():
        gone = []

        async def once():
            state = {"times": Times(), "call_when_gone": lambda callback: gone.append(callback) if callback else None}
            scope = {"headers": [(b"content-length", b"0")], "query_string": b"", "state": state}
            with way_in.begin(scope, receive) as request:
                await way_in.read(request, Body(scope))

        async def receive():
            return {"type": "http.request", "body": bytes(2 * LARGE_BYTES)}

        tasks = [asyncio.create_task(once()) for _ in range(3 * LARGE_AT_A_TIME)]
        async with asyncio.timeout(LIMIT_S):
            while len(started) < LARGE_AT_A_TIME:
                await asyncio.sleep(0.01)
        for hang_up in gone:
            hang_up()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(error, ClientDisconnect) for error in ended)
        last = asyncio.create_task(once())
        await asyncio.sleep(0.1)  # nothing of it shall start
        assert len(started) == LARGE_AT_A_TIME
        go_on.set()
        with pytest.raises(DoorError):
            await last

    asyncio.run(story())


class Rollout:
    """A backend whose default version changes under the first request."""

    def __init__(self, state):
        self.state = state

    async def ask(self, question):
        self.state.models = {"seefood": {"default": "2", "versions": {"1": {}, "2": {}}}}
        content = {"predictions": [], "sure": True, "version": question.version}
        return Answer(200, {}, json.dumps(content).encode())

    def close(self):
        pass


def test_photos_of_one_request_are_answered_by_one_version():
    state = State(models={"seefood": {"default": "1", "versions": {"1": {}}}})
    way_in = predictions(state, Rollout(state), Settings(worker_requests=1))
    answer = ask(application_of(way_in), "POST", "/v1/models/seefood:predict", json={"instances": ["YWJj", "YWJj", "YWJj"]})
    assert [one["version"] for one in answer.json()["predictions"]] == ["2", "2", "2"]
