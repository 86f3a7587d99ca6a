"""Who goes on to the worker, and when: in CPU seconds and bytes, in turn, and out again when the client has gone."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from handler.cost import Cost
from scripts.door.admission import Admission, Limits
from scripts.door.errors import DoorError

CHEAP, COSTLY = Cost(1000, 0.01), Cost(1000, 1.0)
LIMITS = Limits(running=4, running_cpu_s=1.5, running_bytes=10_000, waiting_cpu_s=5.0)


class Crowd:
    """Requests that enter in turn, and stay until they are told to leave."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.admission = Admission(limits)
        self.inside: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._leave: dict[str, asyncio.Event] = {}

    async def add(self, name: str, cost: Cost) -> None:
        self._leave[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._one(name, cost))
        await settle()

    async def _one(self, name: str, cost: Cost) -> None:
        await self.admission.enter(cost)
        self.inside.append(name)
        try:
            await self._leave[name].wait()
        finally:
            self.inside.remove(name)
            self.admission.leave(cost)

    async def leave(self, name: str) -> None:
        self._leave[name].set()
        await self.tasks[name]
        await settle()

    async def hang_up(self, *names: str) -> None:
        for name in names:
            self.tasks[name].cancel()
        await asyncio.gather(*(self.tasks[name] for name in names), return_exceptions=True)
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def run(story: Callable[[Crowd], Awaitable[None]], limits: Limits = LIMITS) -> Crowd:
    """The crowd after the story; whoever is left then hangs up, and nothing stays counted."""

    async def whole() -> Crowd:
        crowd = Crowd(limits)
        await story(crowd)
        await crowd.hang_up(*crowd.tasks)
        admission = crowd.admission
        assert (admission.running, admission.running_bytes, admission.waiting) == (0, 0, 0)
        assert admission.running_cpu_s == pytest.approx(0)
        assert admission.waiting_cpu_s == pytest.approx(0)
        return crowd

    return asyncio.run(whole())


def test_as_many_run_as_are_allowed_and_the_rest_follows_in_turn():
    async def story(crowd: Crowd) -> None:
        for i in range(7):
            await crowd.add(f"r{i}", CHEAP)
        assert crowd.inside == ["r0", "r1", "r2", "r3"]
        await crowd.leave("r1")
        await crowd.leave("r0")
        assert crowd.inside == ["r2", "r3", "r4", "r5"]

    run(story)


def test_cpu_and_bytes_bound_what_runs():
    async def story(crowd: Crowd) -> None:
        await crowd.add("costly", COSTLY)
        await crowd.add("costly too", COSTLY)
        assert crowd.inside == ["costly"]
        await crowd.leave("costly")
        assert crowd.inside == ["costly too"]
        await crowd.add("large", Cost(9500, 0.01))
        assert crowd.inside == ["costly too"]

    run(story)


def test_what_is_over_a_bound_by_itself_runs_alone():
    async def story(crowd: Crowd) -> None:
        await crowd.add("huge", Cost(1_000_000, 99.0))
        await crowd.add("cheap", CHEAP)
        assert crowd.inside == ["huge"]
        await crowd.leave("huge")
        assert crowd.inside == ["cheap"]

    run(story)


def test_cheap_ones_pass_a_costly_one():
    async def story(crowd: Crowd) -> None:
        await crowd.add("first", COSTLY)
        await crowd.add("costly", COSTLY)
        await crowd.add("cheap", CHEAP)
        assert crowd.inside == ["first", "cheap"]

    run(story)


def test_too_much_waiting_is_refused_with_a_time_to_come_back():
    async def story(crowd: Crowd) -> None:
        for i in range(6):
            await crowd.add(f"r{i}", COSTLY)
        await crowd.add("one too many", COSTLY)
        with pytest.raises(DoorError, match="busy") as caught:
            await crowd.tasks.pop("one too many")
        assert caught.value.status == 503
        assert int(caught.value.headers["retry-after"]) >= 1
        # a cheap one still finds room
        await crowd.add("cheap", Cost(1, 0.0))
        assert not crowd.tasks["cheap"].done()

    run(story)


def test_whoever_hangs_up_frees_the_place():
    async def story(crowd: Crowd) -> None:
        for i in range(6):
            await crowd.add(f"r{i}", COSTLY)
        await crowd.hang_up("r1", "r2", "r3")
        assert crowd.admission.waiting == 2
        await crowd.hang_up("r0")
        assert crowd.inside == ["r4"]

    run(story)


def test_whoever_hangs_up_when_it_is_let_in_frees_the_place_too():
    async def story(crowd: Crowd) -> None:
        await crowd.add("first", COSTLY)
        await crowd.add("second", COSTLY)
        await crowd.add("third", COSTLY)
        # in the same turn of the loop: the first leaves, and the second, let in by that, is cancelled before it runs
        crowd._leave["first"].set()
        await asyncio.sleep(0)
        await crowd.hang_up("second")
        assert crowd.inside == ["third"]

    run(story)


def several(story: Callable[[Crowd], Awaitable[None]], models: int = 2, limits: Limits = LIMITS) -> None:
    """A crowd of several models: those of a name before its first space."""

    class Models(Crowd):
        async def _one(self, name: str, cost: Cost) -> None:
            model = name.split()[0]
            await self.admission.enter(cost, model)
            self.inside.append(name)
            try:
                await self._leave[name].wait()
            finally:
                self.inside.remove(name)
                self.admission.leave(cost, model)

    async def whole() -> None:
        crowd = Models(limits)
        crowd.admission.models = lambda: models
        await story(crowd)
        await crowd.hang_up(*crowd.tasks)
        admission = crowd.admission
        assert (admission.running, admission.running_bytes, admission.waiting) == (0, 0, 0)
        assert admission.waiting_cpu_s == pytest.approx(0)

    asyncio.run(whole())


def test_a_model_of_which_nothing_runs_passes_anothers_flood_and_then_both_take_turns():
    async def story(crowd: Crowd) -> None:
        for i in range(20):
            await crowd.add(f"flood {i}", CHEAP)
        flood = len(crowd.inside)
        assert flood == 3  # of 4: a worker that hangs holds no more
        for i in range(5):
            await crowd.add(f"quiet {i}", CHEAP)
        assert crowd.inside[-1] == "quiet 0"  # its worker had nothing
        admitted = crowd.inside.copy()
        while "quiet 4" not in admitted:  # as places are freed, each goes to the model that has had less
            await crowd.leave(crowd.inside[0])
            admitted += [name for name in crowd.inside if name not in admitted]
        after = [name.split()[0] for name in admitted[flood:]]
        assert after.count("quiet") == 5
        assert after.count("flood") <= 5

    several(story)


def test_turns_are_of_cost_so_that_costly_photos_of_one_model_do_not_hold_up_cheap_ones_of_another():
    async def story(crowd: Crowd) -> None:
        costly, cheap = Cost(1, 0.4), Cost(1, 0.1)
        for i in range(8):
            await crowd.add(f"costly {i}", costly)
        for i in range(16):
            await crowd.add(f"cheap {i}", cheap)
        left: list[str] = []
        while len(left) < 12:
            left.append(crowd.inside[0])
            await crowd.leave(left[-1])
        of_costly, of_cheap = (sum(one.startswith(name) for one in left) for name in ("costly", "cheap"))
        assert of_costly * costly.cpu_s == pytest.approx(of_cheap * cheap.cpu_s, abs=2 * costly.cpu_s)

    several(story, limits=Limits(running=4, running_cpu_s=1.5, running_bytes=10_000, waiting_cpu_s=50.0))


def test_each_model_has_its_part_of_what_may_wait_and_one_alone_all_of_it():
    async def fill(crowd: Crowd, model: str) -> int:
        """How many wait once no more of a model may."""
        for i in range(len(crowd.tasks), 100):
            before = crowd.admission.waiting
            await crowd.add(f"{model} {i}", COSTLY)
            if crowd.admission.waiting == before and crowd.tasks[f"{model} {i}"].done():
                assert isinstance(crowd.tasks.pop(f"{model} {i}").exception(), DoorError)
                return before
        raise AssertionError("no end")

    async def of_two(crowd: Crowd) -> None:
        assert await fill(crowd, "flood") == 7  # three quarters of 10 s
        assert await fill(crowd, "quiet") == 7 + 3  # the other quarter, and what is left of the half that both may have
        assert await fill(crowd, "flood") == 10

    async def of_one(crowd: Crowd) -> None:
        assert await fill(crowd, "alone") == 10

    limits = Limits(running=4, running_cpu_s=1.5, running_bytes=10_000, waiting_cpu_s=10.0)
    several(of_two, limits=limits)
    several(of_one, models=1, limits=limits)


def test_heat_maps_are_as_many_at_a_time_as_is_set_whichever_models_they_are_of():
    async def story(crowd: Crowd) -> None:
        await crowd.add("one a", CHEAP)
        await crowd.add("two b", CHEAP)
        assert crowd.inside == ["one a"]
        await crowd.leave("one a")
        assert crowd.inside == ["two b"]

    several(story, limits=Limits(running=1, running_cpu_s=1.5, running_bytes=10_000, each_worker=False))
