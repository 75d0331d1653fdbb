"""Streams in stages: what arrives is pushed in, what becomes complete comes out.

A recording that is read to its end and one that is still being made go through the same stages; only who drives them differs: `run` pulls
parts from an iterable, a live stream pushes them as they come.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)
Part = TypeVar("Part")
Result = TypeVar("Result")


class Stage(Protocol[In, Out]):
    """One step of the processing of one stream, which it holds the state of."""

    def push(self, part: In) -> Iterator[Out]:
        """Take the next part (when iterated over); gives what is complete with it."""

    def finish(self) -> Iterator[Out]:
        """The stream has ended; gives the rest."""


def run(stage: Stage[Part, Result], parts: Iterable[Part]) -> Iterator[Result]:
    """Everything that a whole stream gives, as it becomes complete."""
    for part in parts:
        yield from stage.push(part)
    yield from stage.finish()


class Chain(Generic[Part, Result]):
    """Stages one after the other, as one. What one gives, the next must take."""

    def __init__(self, *stages: Stage[Any, Any]) -> None:
        self._stages = stages

    def push(self, part: Part) -> Iterator[Result]:
        """See `Stage`."""
        return self._through(iter([part]), 0)

    def finish(self) -> Iterator[Result]:
        """See `Stage`."""
        for number, stage in enumerate(self._stages, 1):
            yield from self._through(stage.finish(), number)

    def _through(self, parts: Iterator[Any], first: int) -> Iterator[Any]:
        """Parts pushed through the stages from `first` on."""
        for stage in self._stages[first:]:
            parts = _pushed(stage, parts)
        return parts


def _pushed(stage: Stage[Any, Any], parts: Iterator[Any]) -> Iterator[Any]:
    for part in parts:
        yield from stage.push(part)
