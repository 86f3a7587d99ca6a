"""Several photos in one request: asked for at once, which the worker batches, and answered in their order or not at all."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from scripts.backend.answer import Answer
from scripts.door.errors import DoorError
from scripts.door.forms.asked import Asked
from scripts.door.in_flight import InFlight
from scripts.door.predictions import Predictions


async def answers(
    predictions: Predictions,
    request: InFlight,
    model: str,
    version: str | None,
    asked: Asked,
    explain: bool = False,
) -> list[Any]:
    """The JSON answer to each photo, all of one version.

    DoorError for the first that has none, with its number from 0 if there are several.
    """

    def ask(number: int, photo: bytes) -> Awaitable[Answer]:
        among, text = number if len(asked.photos) > 1 else None, asked.texts[number]
        return predictions.answer(request, model, version, photo, asked.top_k, explain, as_json=True, number=among, text=text)

    for _ in range(2):  # the default may change between two photos
        found = await _all_at_once(ask, asked.photos)
        if len({answer["version"] for answer in found}) == 1:
            break
    return found


async def _all_at_once(ask: Callable[[int, bytes], Awaitable[Answer]], photos: Sequence[bytes]) -> list[Any]:
    tasks = [asyncio.ensure_future(ask(number, photo)) for number, photo in enumerate(photos)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        # one that has raised comes before those that still wait for their turn
        raised = next(
            (number for number, task in enumerate(tasks) if task.done() and not task.cancelled() and task.exception()), None
        )
        order = range(len(tasks)) if raised is None else [raised]
        return [_content(tasks[number], number if len(tasks) > 1 else None) for number in order]
    finally:
        for task in tasks:
            task.cancel()
        # until their places are free; their errors are not wanted any more
        await asyncio.gather(*tasks, return_exceptions=True)
        tasks.clear()  # an error among them holds this frame, which holds them and the photos


def checked(answer: Answer) -> Answer:
    """The answer, if it is no error. DoorError with the worker's words."""
    if answer.status >= 400:
        content = json.loads(answer.body)
        retry = {name: value for name, value in answer.headers.items() if name == "retry-after"}
        raise DoorError(content["message"], answer.status, content["type"], headers=retry)
    return answer


def _content(task: "asyncio.Future[Answer]", number: int | None) -> Any:
    try:
        return json.loads(checked(task.result()).body)
    except DoorError as error:
        if number is None:
            raise
        raise DoorError(f"photo {number}: {error}", error.status, error.kind, headers=error.headers) from error
