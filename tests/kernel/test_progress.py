from __future__ import annotations

import asyncio
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from aos.errors import CircuitOpen, FoundryUnavailable
from aos.kernel.progress import LONGEST_TEXT, Listener, Progress
from aos.kernel.types import Operation, Status
from tests.kernel.remote import Fault
from tests.kernel.world import KEY, World, run

PART = 1000
FITS = LONGEST_TEXT // PART


def operation(status: Status = "running", operation_id: str = "op") -> Operation:
    return Operation(operation_id, *KEY, status, 0.0, 0.0)


def say(progress: Progress, *texts: str) -> None:
    tell = progress.on_text("op")
    assert tell is not None
    for text in texts:
        tell(text)


async def read(listener: Listener) -> list[str | Operation]:
    return await listener.next(0.0)


# --- the hub


async def test_text_and_states_are_told_in_order_and_text_in_one_piece() -> None:
    progress = Progress()
    listener = progress.listen("op")
    say(progress, "one ", "two")
    progress.saved(operation("waiting"))
    say(progress, "three")
    assert await read(listener) == ["one two", operation("waiting"), "three"]
    assert await read(listener) == []


async def test_a_reader_waits_for_news_and_no_longer_than_it_wants() -> None:
    progress = Progress()
    listener = progress.listen("op")
    assert await listener.next(0.01) == []
    reading = asyncio.create_task(listener.next(5.0))
    await asyncio.sleep(0)
    say(progress, "news")
    assert await reading == ["news"]
    await asyncio.sleep(0)
    assert await listener.next(0.01) == [], "what was read is not news again"


def test_nobody_listens() -> None:
    progress = Progress()
    assert progress.on_text("op") is None
    progress.saved(operation())


async def test_other_operations_are_not_heard() -> None:
    progress = Progress()
    listener, other = progress.listen("op"), progress.listen("other")
    say(progress, "text")
    progress.saved(operation(operation_id="other"))
    progress.saved(operation(operation_id="third"))
    assert await read(listener) == ["text"]
    assert await read(other) == [operation(operation_id="other")]


async def test_every_listener_hears_all_of_it_and_one_who_left_nothing_more() -> None:
    progress = Progress()
    first, second = progress.listen("op"), progress.listen("op")
    say(progress, "text")
    assert await read(first) == await read(second) == ["text"]
    second.close()
    second.close()
    progress.saved(operation())
    assert await read(first) == [operation()]
    assert await read(second) == []


async def test_who_comes_late_hears_the_step_from_its_beginning() -> None:
    progress = Progress()
    first = progress.listen("op")
    say(progress, "old")
    progress.saved(operation())
    say(progress, "one ", "two")
    late = progress.listen("op")
    assert await read(late) == ["one two"]
    assert await read(first) == ["old", operation(), "one two"]


async def test_who_comes_back_while_the_step_runs_hears_all_of_it() -> None:
    progress = Progress()
    listener = progress.listen("op")
    tell = progress.on_text("op")
    assert tell is not None
    tell("one ")
    listener.close()
    tell("two ")
    again = progress.listen("op")
    tell("three")
    assert await read(again) == ["one two three"]


def test_what_nobody_holds_is_forgotten() -> None:
    progress = Progress()
    listener = progress.listen("op")
    say(progress, "text")
    listener.close()
    assert progress.on_text("op") is None
    assert not progress._channels


async def test_a_step_that_was_heard_in_part_is_not_told_again() -> None:
    progress = Progress()
    listener = progress.listen("op")
    say(progress, "half an ans")
    assert progress.on_text("op") is None
    progress.saved(operation())
    say(progress, "next")
    assert await read(listener) == ["half an ans", operation(), "next"]


async def test_a_slow_reader_misses_the_rest_of_a_text_and_no_state() -> None:
    progress = Progress()
    listener = progress.listen("op")
    steps = 5
    for _ in range(steps):
        say(progress, *["x" * PART] * (2 * FITS))
        progress.saved(operation("waiting"))
        progress.saved(operation("running"))
    say(progress, "the end")
    progress.saved(operation("completed"))
    told = await read(listener)
    assert told[0] == "x" * PART * FITS, "a beginning without gaps"
    assert sum(len(item) for item in told if isinstance(item, str)) <= LONGEST_TEXT
    assert told[-1] == operation("completed")
    assert operation("waiting") not in told, "a state that was replaced"
    assert len(told) <= 2 * steps + 2


async def test_a_piece_after_one_that_found_no_room_is_left_out_until_the_step_ends() -> None:
    progress = Progress()
    listener = progress.listen("op")
    say(progress, "x" * (LONGEST_TEXT - 1), "yy", "z")
    assert await read(listener) == ["x" * (LONGEST_TEXT - 1)]
    progress.saved(operation())
    say(progress, "next")
    assert await read(listener) == [operation(), "next"]


async def test_a_text_that_is_too_long_to_keep_is_not_told_to_who_comes_late() -> None:
    progress = Progress()
    first = progress.listen("op")
    say(progress, *["x" * PART] * (FITS + 1))
    assert await read(progress.listen("op")) == []
    assert await read(first) == ["x" * PART * FITS]


# --- the kernel tells it


async def told(world: World, text: str, *, until: float = 1000.0) -> tuple[list[str], list[Operation]]:
    """Has a message answered with a listener: what it heard."""
    accepted = await world.accept(text)
    listener = world.kernel.progress.listen(accepted.operation_id)
    world.kernel.start(accepted)
    texts: list[str] = []
    states: list[Operation] = []
    ends = world.now + until
    while not (states and states[-1].final):
        assert world.now < ends
        for item in await listener.next(30.0):
            if isinstance(item, str):
                texts.append(item)
            else:
                states.append(item)
    listener.close()
    return texts, states


def test_a_turn_tells_its_text_and_each_state_that_it_saved() -> None:
    async def scenario(world: World) -> None:
        texts, states = await told(world, "1,1: go")
        assert texts == ["answer ", "to ", "1,1: ", "go: ", "<op0.1.0> ", "<op0.2.0>"]
        assert [state.status for state in states] == ["running", *["waiting", "running"] * 2, "completed"]
        assert states[-1] == await world.kernel.operation("op0")

    run(scenario)


def test_a_turn_that_nobody_listens_to_is_not_streamed() -> None:
    async def scenario(world: World) -> None:
        began = world.now
        await world.tell("hello")
        assert world.now - began < world.foundry.latency + world.foundry.pace

    run(scenario)


def test_a_step_that_broke_after_its_text_was_heard_is_told_once() -> None:
    async def scenario(world: World) -> None:
        world.foundry.faults.append("lost answer")
        texts, states = await told(world, "hello")
        assert "".join(texts) == "answer to hello: " == states[-1].reply
        assert states[-1].usage.adopted == 1

    run(scenario)


def test_a_step_that_broke_before_any_text_is_streamed_when_it_is_tried_again() -> None:
    async def scenario(world: World) -> None:
        faults: list[Fault] = ["never sent", "lost request"]
        world.foundry.faults += faults
        texts, states = await told(world, "hello")
        assert "".join(texts) == "answer to hello: " == states[-1].reply

    run(scenario)


def test_a_step_that_was_put_off_after_half_its_text_is_not_told_twice() -> None:
    async def scenario(world: World) -> None:
        def cut() -> None:
            world.foundry.down = True
            world.later(60.0, lambda: setattr(world.foundry, "down", False))

        world.foundry.faults.append("lost answer")
        world.later(0.7, cut)
        texts, states = await told(world, "hello")
        assert "".join(texts) == "answer to hello: " == states[-1].reply
        assert states[-1].updated_at - states[-1].created_at > 60.0

    run(scenario)


def test_a_listener_that_leaves_does_not_stop_the_turn() -> None:
    async def scenario(world: World) -> None:
        accepted = await world.accept("hello")
        listener = world.kernel.progress.listen(accepted.operation_id)
        world.kernel.start(accepted)
        assert await listener.next(10.0)
        listener.close()
        assert (await world.finished(accepted)).reply == "answer to hello: "

    run(scenario)


def test_a_foundry_that_is_down_is_heard_nothing_of() -> None:
    async def scenario(world: World) -> None:
        world.foundry.down = True
        texts, states = await told(world, "hello")
        assert texts == []
        assert states[-1].error is not None
        assert states[-1].error.code in (FoundryUnavailable.code, CircuitOpen.code)

    run(scenario)


# --- whatever happens in whatever order

Happening = tuple[str, int]
HAPPENINGS = st.lists(
    st.tuples(st.sampled_from(["say", "save", "read", "join", "leave"]), st.integers(0, 3)),
    max_size=60,
)
SIZES = (1, 20_000, 50_000, LONGEST_TEXT)


def texts_of(told: list[str | Operation]) -> list[str]:
    """What was heard of each step; reads may have cut it in pieces."""
    texts = [""]
    for item in told:
        if isinstance(item, str):
            texts[-1] += item
        else:
            texts.append("")
    return texts


@given(HAPPENINGS)
@settings(max_examples=200, deadline=None)
def test_what_is_heard_of_a_step_is_its_beginning_and_the_last_state_is_heard(happenings: list[Happening]) -> None:
    async def scenario() -> None:
        progress = Progress()
        readers = [(progress.listen("op"), list[str | Operation]())]
        left: set[int] = set()
        steps = [""]
        tell = progress.on_text("op")
        assert tell is not None
        for happening, number in happenings:
            reader = number % len(readers)
            if happening == "say":
                text = f"{len(steps[-1])}," * SIZES[number]
                tell(text[: SIZES[number]])
                steps[-1] += text[: SIZES[number]]
            elif happening == "save":
                steps.append("")
                progress.saved(replace(operation(), updated_at=float(len(steps))))
            elif happening == "read":
                readers[reader][1].extend(await readers[reader][0].next(0.0))
            elif happening == "join" and len(readers) < 4:
                readers.append((progress.listen("op"), []))
            elif happening == "leave" and reader:
                readers[reader][0].close()
                left.add(reader)
        for number, (listener, told) in enumerate(readers):
            if number in left:
                continue
            told += await listener.next(0.0)
            states = [item for item in told if isinstance(item, Operation)]
            assert [state.updated_at for state in states] == sorted({state.updated_at for state in states})
            if number == 0 and len(steps) > 1:
                assert states[-1].updated_at == len(steps)
            heard = texts_of(told)
            assert steps[-1].startswith(heard[-1])
            for state, text in zip(states, heard[:-1], strict=True):
                assert any(step.startswith(text) for step in steps[: int(state.updated_at) - 1])

    asyncio.run(scenario())
