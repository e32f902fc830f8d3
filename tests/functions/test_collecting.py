from __future__ import annotations

import asyncio
import json

import pytest

from aos.errors import BusUnavailable
from aos.functions.orders import LONGEST_PAUSE, Collect
from aos.mcp.results import LONGEST_OUTPUT
from tests.functions.conftest import Shop


async def test_a_call_goes_round_and_nothing_waits_for_it(shop: Shop) -> None:
    operation = await shop.begin(1)
    assert (operation.status, operation.waiting_on) == ("waiting", "tool")
    (call,) = await shop.calls()
    assert call == {"n": 0, "CorrelationId": operation.tool_calls[0].request_id}
    await shop.reply({"Value": {"doubled": 0}, "CorrelationId": call["CorrelationId"]})
    await shop.pulse()
    ended = await shop.ended(operation)
    assert (ended.status, ended.reply) == ("completed", '{"doubled": 0}')
    assert shop.orders() == []


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("text", '{"result": "text"}'),
        (42, '{"result": "42"}'),
        (None, '{"result": "null"}'),
        ([1], '{"result": "[1]"}'),
    ],
)
async def test_values_of_every_kind_reach_the_model(shop: Shop, value: object, told: str) -> None:
    operation = await shop.begin(1)
    (call,) = await shop.calls()
    await shop.reply({"Value": value, "CorrelationId": call["CorrelationId"]}, plain=True)
    await shop.pulse()
    assert (await shop.ended(operation)).reply == told


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("cut \ud83d", '{"result": "cut ?"}'),
        ({"a \ud83d": ["\ud83d"]}, '{"a ?": ["?"]}'),
        ("\U0001f600", '{"result": "\U0001f600"}'),
    ],
)
async def test_halves_of_characters_do_not_reach_the_model(shop: Shop, value: object, told: str) -> None:
    operation = await shop.begin(1)
    (call,) = await shop.calls()
    await shop.reply({"Value": value, "CorrelationId": call["CorrelationId"]})
    await shop.pulse()
    assert (await shop.ended(operation)).reply == told
    assert shop.parked() == []


async def test_a_message_that_is_nested_too_deeply_is_parked_and_holds_nothing_up(shop: Shop) -> None:
    operation = await shop.begin(1)
    (call,) = await shop.calls()
    await shop.reply("[" * 20_000)
    await shop.reply({"Value": "fine", "CorrelationId": call["CorrelationId"]})
    await shop.pulse()
    assert (await shop.ended(operation)).reply == '{"result": "fine"}'
    (parked,) = [message for message in shop.sent if message.entity == "aos-poison"]
    assert parked.body == b"[" * 20_000


async def test_replies_out_of_order_find_their_calls(shop: Shop) -> None:
    operation = await shop.begin(3)
    for call in reversed(await shop.calls()):
        await shop.reply({"Value": {"doubled": call["n"] * 2}, "CorrelationId": call["CorrelationId"]})
    await shop.pulse()
    assert (await shop.ended(operation)).reply == '{"doubled": 0}; {"doubled": 2}; {"doubled": 4}'


async def test_a_reply_that_comes_twice_counts_once(shop: Shop) -> None:
    operation = await shop.begin(2)
    first, second = sorted(await shop.calls(), key=lambda call: int(call["n"]))
    await shop.reply({"Value": "once", "CorrelationId": first["CorrelationId"]})
    await shop.reply({"Value": "twice", "CorrelationId": first["CorrelationId"]})
    await shop.pulse()
    assert not (await shop.kernel.operation(operation.operation_id)).final
    await shop.reply({"Value": "again", "CorrelationId": first["CorrelationId"]})
    await shop.reply({"Value": "other", "CorrelationId": second["CorrelationId"]})
    await shop.pulse()
    reply = (await shop.ended(operation)).reply or ""
    told = {json.loads(one)["result"] for one in reply.split("; ")}
    assert "other" in told
    assert told - {"other"} in ({"once"}, {"twice"})  # whichever was filed first
    await shop.reply({"Value": "late", "CorrelationId": second["CorrelationId"]})
    await shop.replies.receive(
        shop.route.output_queue, json.dumps({"Value": "late", "CorrelationId": second["CorrelationId"]}).encode(), "m"
    )
    assert (await shop.ended(operation)).reply == reply
    assert shop.parked() == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"Value": "lost"}, "NoCorrelationId"),
        ({"CorrelationId": "op_aaaa.1.0"}, "FunctionReplyInvalid"),
        ("not even JSON {", "FunctionReplyInvalid"),
        ({"Value": 1, "CorrelationId": "somebody-else"}, "UnknownCorrelationId"),
        ({"Value": 1, "CorrelationId": "op_aaaaaaaaaaaaaaaaaaaaaaaaaa.1.0"}, "UnknownCorrelationId"),
    ],
)
async def test_what_answers_no_call_is_parked_and_holds_nothing_up(shop: Shop, body: object, reason: str) -> None:
    operation = await shop.begin(1)
    (call,) = await shop.calls()
    await shop.reply(body)
    await shop.reply({"Value": "fine", "CorrelationId": call["CorrelationId"]})
    if body == "not even JSON {":
        await shop.pulse()
        (parked,) = [message for message in shop.sent if message.entity == "aos-poison"]
        assert (parked.properties["DeadLetterReason"], parked.body) == (reason, b"not even JSON {")
    else:
        await shop.pulse()
        assert shop.parked() == [(reason, body)]
    assert (await shop.ended(operation)).reply == '{"result": "fine"}'


async def test_a_reply_over_the_queue_of_another_function_is_parked(shop: Shop, account: object) -> None:
    operation = await shop.begin(1)
    (call,) = await shop.calls()
    body = {"Value": "forged", "CorrelationId": call["CorrelationId"]}
    await shop.replies.receive("some-other-queue", json.dumps(body).encode(), "m1")
    assert shop.parked() == [("UnknownCorrelationId", body)]
    assert not (await shop.kernel.operation(operation.operation_id)).final


async def test_never_a_reply_ends_with_the_deadline_and_the_model_is_told(shop: Shop) -> None:
    operation = await shop.begin(1)
    await shop.pulse()
    (order,) = shop.orders()
    assert order.attempt == 1
    shop.clock.shift = 61.0
    await shop.replies.collect(order)
    ended = await shop.ended(operation)
    assert ended.tool_calls[0].status == "timed_out"
    assert "did not answer in time" in (ended.reply or "")
    assert shop.orders() == []  # nobody looks any more


async def test_a_huge_reply_is_cut_and_kept(shop: Shop) -> None:
    operation = await shop.begin(1)
    (call,) = await shop.calls()
    # Over 64 KiB a message cannot be: it names a blob, as `aos.storage` writes it.
    body = {"Value": "x" * (LONGEST_OUTPUT + 1), "CorrelationId": call["CorrelationId"]}
    await shop.queues.send(shop.route.output_queue, body)
    await shop.pulse()
    told = json.loads((await shop.ended(operation)).reply or "")
    assert len(told["result"]) == LONGEST_OUTPUT
    assert told["notice"].startswith("Cut after")
    assert told["whole"].startswith("aos-payloads/tool-results")


async def test_queues_are_made_on_demand(shop: Shop) -> None:
    names = [queue.name async for queue in shop.account._queue_service().list_queues(name_starts_with="f-")]
    assert not {shop.route.input_queue, shop.route.output_queue} & set(names)
    await shop.begin(1)
    await shop.pulse()
    names = [queue.name async for queue in shop.account._queue_service().list_queues(name_starts_with="f-")]
    assert {shop.route.input_queue, shop.route.output_queue} <= set(names)


async def test_queues_that_somebody_deletes_are_made_again(shop: Shop) -> None:
    await shop.begin(1)
    await shop.pulse()
    for queue in (shop.route.input_queue, shop.route.output_queue, shop.route.poison_queue):
        await (await shop.account.queue(queue)).delete_queue()
    operation = await shop.begin(1)
    (call,) = await shop.calls()
    await shop.pulse()
    assert not (await shop.kernel.operation(operation.operation_id)).final
    await shop.reply({"Value": "here", "CorrelationId": call["CorrelationId"]})
    await shop.pulse()
    assert (await shop.ended(operation)).reply == '{"result": "here"}'


async def test_a_call_on_which_the_function_gave_up_is_told_and_parked(shop: Shop) -> None:
    operation = await shop.begin(1)
    (call,) = await shop.calls()
    await shop.queues.send(shop.route.poison_queue, call)
    foreign = {"n": 1, "CorrelationId": "of another caller"}
    await shop.queues.send(shop.route.poison_queue, foreign)
    await shop.pulse()
    await shop.pulse()
    ended = await shop.ended(operation)
    assert ended.tool_calls[0].status == "failed"
    assert "the function failed each time" in (ended.reply or "")
    assert shop.parked() == [("FunctionPoison", call)]
    properties = await (await shop.account.queue(shop.route.poison_queue)).get_queue_properties()
    assert properties.approximate_message_count == 1  # the other caller's


async def test_a_hundred_calls_in_flight(shop: Shop) -> None:
    operations = await asyncio.gather(*(shop.begin(10) for _ in range(10)))
    calls = await shop.calls()
    assert len(calls) == 100
    await asyncio.gather(
        *(
            shop.reply({"Value": {"doubled": call["n"] * 2}, "CorrelationId": call["CorrelationId"]})
            for call in reversed(calls)
        )
    )
    # Each turn has an order of its own; the first one finds the replies of all.
    orders = shop.orders()
    assert len(orders) == 10
    await asyncio.gather(*(shop.replies.collect(order) for order in orders))
    wanted = "; ".join(f'{{"doubled": {n * 2}}}' for n in range(10))
    assert {(await shop.ended(operation)).reply for operation in operations} == {wanted}


async def test_a_process_that_dies_between_call_and_reply_is_followed_by_another(shop: Shop) -> None:
    operation = await shop.begin(1)
    await shop.kernel.close(0.0)
    (call,) = await shop.calls()
    await shop.reply({"Value": "late but whole", "CorrelationId": call["CorrelationId"]})
    shop.kernel = shop.new_kernel()
    shop.replies = shop.new_replies()
    await shop.pulse()
    assert (await shop.ended(operation)).reply == '{"result": "late but whole"}'


async def test_a_call_whose_sending_was_not_confirmed_goes_out_again_with_the_same_id(shop: Shop) -> None:
    shop.outage, shop.agents.time_limit = BusUnavailable("down"), 300.0
    with pytest.raises(BusUnavailable):
        await shop.begin(1)
    assert await shop.calls() == []  # nobody would look for its reply
    shop.outage = None
    # Among all that other tests left in the account.
    entries = await shop.store.due(shop.clock.now() + 3600, 1_000_000)
    (due,) = [entry for entry in entries if entry.key.agent_id == shop.agent_id]
    shop.clock.shift = 60.0  # beyond the lease of who failed
    await shop.kernel.drive(due.key)
    (call,) = await shop.calls()
    assert call["CorrelationId"].startswith(due.operation_id)
    assert len(shop.orders()) == 1


async def test_a_trigger_files_a_reply_at_once(shop: Shop) -> None:
    operation = await shop.begin(1)
    (call,) = await shop.calls()
    body = {"Value": "pushed", "CorrelationId": call["CorrelationId"]}
    await shop.replies.receive(shop.route.output_queue, json.dumps(body).encode(), "m1")
    assert (await shop.ended(operation)).reply == '{"result": "pushed"}'


async def test_arguments_too_long_for_a_queue_are_told_to_the_model(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aos.functions.outlet.LARGEST_INLINE", 10)
    operation = await shop.begin(1)
    ended = await shop.ended(operation)
    assert "too_large" in (ended.reply or "")
    assert await shop.calls() == []


def test_pauses_grow_from_half_a_second_to_half_a_minute() -> None:
    order = Collect(
        agent_id="a", conversation_id="c", input_queue="i", output_queue="o", request_ids=["r"], began_at=0.0
    )
    pauses = [order.model_copy(update={"attempt": attempt}).pause for attempt in range(30)]
    assert pauses[0] == 0.5
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE
    assert sum(pauses[:10]) < 120
