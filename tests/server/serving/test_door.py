"""The door: whose calls come in, whose wait, whose are refused; on one event loop, with calls by hand."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polysem.proto.errors import Overloaded
from polysem.server.serving import door as doors
from polysem.server.serving.door import HEALTH, JOB, PING, UPLOAD, WATCH, WORK, Door, kind_of


def run(scenario, **options):
    async def main():
        door = Door(**{"max_requests": 1024} | options)
        async with asyncio.timeout(30):
            return await scenario(door)

    return asyncio.run(main())


async def settle(door):
    """Until nobody's turn is due."""
    for _ in range(20):
        await asyncio.sleep(0)
    while door._timer is not None:
        await asyncio.sleep(doors.ALONE_SPACING_S)


def entering(door, share, kind, n):
    return [asyncio.create_task(door.enter(share, kind)) for _ in range(n)]


def n_in(tasks):
    return sum(task.done() and not task.cancelled() and task.exception() is None for task in tasks)


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("/polysem.v1.NeuronService/GetServerInfo", PING),
        ("/polysem.v1.NeuronService/ClusterNeurons", WORK),
        ("/polysem.v1.JobService/CreateJob", JOB),
        ("/polysem.v1.JobService/WatchJob", WATCH),
        ("/polysem.v1.JobService/UploadCorpus", UPLOAD),
        ("/grpc.health.v1.Health/Watch", HEALTH),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", WATCH),
        ("/unheard.of/Method", WORK),
    ],
)
def test_each_method_counts_as_one_kind(method, kind):
    assert kind_of(method) is kind


def test_one_shares_line_holds_up_no_other_share():
    async def scenario(door):
        flood = entering(door, "ada", PING, 500)
        await settle(door)
        assert n_in(flood) == PING.at_once
        (await asyncio.gather(*entering(door, "ben", PING, 1)))[0].left()
        (await asyncio.gather(*entering(door, "ada", WORK, 1)))[0].left()
        for task in flood:
            task.cancel()

    run(scenario)


def test_a_flood_of_calls_that_end_at_once_waits_in_its_line_and_not_before_the_door():
    async def scenario(door):
        n_ended = 0

        async def ping(share):
            nonlocal n_ended
            (await door.enter(share, PING)).left()
            n_ended += 1

        (await asyncio.gather(*entering(door, "ben", PING, 1)))[0].left()
        flood = [asyncio.create_task(ping("ada")) for _ in range(100)]
        await asyncio.sleep(0)
        assert n_ended == PING.at_once
        await asyncio.create_task(ping("ben"))
        assert n_ended <= PING.at_once + 100 // doors.SPACING_CALLS + 1
        await asyncio.gather(*flood)
        assert n_ended == 101

    run(scenario)


def test_a_line_moves_in_order_and_to_its_end():
    async def scenario(door):
        order = []

        async def call(number):
            place = await door.enter("ada", JOB)
            order.append(number)
            await asyncio.sleep(0)
            place.left()

        await asyncio.gather(*(call(number) for number in range(50)))
        return order

    assert run(scenario) == [*range(50)]


def test_a_call_that_answers_makes_room_for_the_next_and_counts_until_its_end():
    async def scenario(door):
        calls = entering(door, "ada", WORK, 70)
        await settle(door)
        assert n_in(calls) == WORK.at_once
        for task in calls[: WORK.at_once]:
            task.result().begun()
            task.result().begun()  # of its second answer
        await settle(door)
        assert n_in(calls) == 64  # a sixteenth of the server's bound
        calls[0].result().left()
        await settle(door)
        assert n_in(calls) == 64  # those that came in later have not answered
        calls[63].result().begun()
        await settle(door)
        assert n_in(calls) == 65
        for task in calls[1:64]:
            task.result().left()
        await settle(door)
        assert n_in(calls) == 70

    run(scenario)


def test_a_keys_own_cap_may_be_larger_than_its_share():
    async def scenario(door):
        places = []
        for _ in range(20):
            places.append(await door.enter("ada", WORK, 20))
            places[-1].begun()
        further = entering(door, "ben", WORK, 9)  # without a cap of its own: a sixteenth, at the least 8
        await settle(door)
        assert n_in(further) == 8 or not further[8].cancel()

    run(scenario, max_requests=16)


@pytest.mark.parametrize(("kind", "what"), [(WATCH, "watches"), (UPLOAD, "uploads"), (HEALTH, "watches of health")])
def test_what_may_last_is_refused_beyond_its_share_and_comes_in_once_one_ends(kind, what):
    async def scenario(door):
        places = []
        for _ in range(kind.in_hand):
            places.append(await door.enter("ada", kind))
            if kind is not UPLOAD:  # which has one answer, at its end
                places[-1].begun()
        with pytest.raises(Overloaded, match=f"^{kind.in_hand} {what} are open already, as many as one key") as raised:
            await door.enter("ada", kind)
        assert raised.value.retry_after_s > 0
        (await door.enter("ben", kind)).left()
        places[0].left()
        (await door.enter("ada", kind)).left()
        assert door.metrics.registry.get_sample_value("polysem_refusals_total", {"reason": "door"}) == 1

    run(scenario)


def test_all_shares_together_have_a_bound():
    async def scenario(door):
        for number in range(UPLOAD.total):
            await door.enter(f"key {number}", UPLOAD)
        with pytest.raises(Overloaded, match=f"^{UPLOAD.total} uploads are open already, as many as this server takes"):
            await door.enter("one more", UPLOAD)

    run(scenario)


def test_a_line_has_a_bound():
    async def scenario(door):
        calls = entering(door, "ada", PING, PING.at_once + 17)
        await settle(door)
        refused = [task for task in calls if task.done() and task.exception()]
        assert [str(task.exception()) for task in refused] == [
            "16 pings wait already, as many as one key or connection may have; end some, or try again in 2 s"
        ]
        for task in calls:
            task.cancel()

    run(scenario, max_requests=16)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([PING, WORK, JOB]), st.booleans()), max_size=60))
def test_whoever_leaves_from_wherever_nothing_stays_behind(calls):
    with pytest.MonkeyPatch.context() as patch:
        for wait in ("WINDOW_S", "SPACING_S", "ALONE_SPACING_S"):
            patch.setattr(doors, wait, 0.0)
        leave(calls)


def leave(calls):
    async def scenario(door):
        tasks = [(asyncio.create_task(door.enter(share, kind)), stays) for share, kind, stays in calls]
        there = {task for task, _ in tasks}
        await asyncio.sleep(0)
        for task, stays in tasks:
            if not stays:
                task.cancel()
        while any(not task.done() or task in there for task, _ in tasks):
            await settle(door)
            for task in [task for task in there if task.done()]:
                there.remove(task)
                if not task.cancelled():
                    task.result().left()
        while door._lanes:
            await asyncio.sleep(0)
        assert not any(door._totals.values())

    run(scenario)


def test_refusals_of_one_share_are_spaced_out_and_those_of_another_are_not(monkeypatch):
    monkeypatch.setattr(doors, "REFUSAL_EVERY_S", 3600.0)

    async def scenario(door):
        await door.hold_back("ada")
        await door.hold_back("ada")  # nobody is kept for an hour: it is answered at once
        monkeypatch.setattr(doors, "MAX_HELD_S", 7200.0)
        third = asyncio.create_task(door.hold_back("ada"))
        await door.hold_back("ben")
        await settle(door)
        assert not third.done()
        third.cancel()

    run(scenario)


def test_lines_stand_still_while_someone_without_a_line_is_computed_for(monkeypatch):
    monkeypatch.setattr(doors, "STILL_S", 60)

    async def scenario(door):
        computed_for = {"bob"}
        door.computed_for = lambda: computed_for
        flood = entering(door, "ada", JOB, 20)
        for place in await asyncio.gather(*flood[: JOB.at_once]):
            place.left()
        await asyncio.sleep(20 * doors.SPACING_S)
        first = n_in(flood)
        assert first <= JOB.at_once + 1  # the first of the line: nothing had moved for long
        computed_for.clear()
        await asyncio.sleep(20 * doors.SPACING_S)
        assert n_in(flood) > first

    run(scenario)


@pytest.mark.parametrize("computed_for", [{"ada"}, {"ada", "bob"}])
def test_those_with_lines_of_their_own_hold_up_no_other(computed_for, monkeypatch):
    monkeypatch.setattr(doors, "STILL_S", 60)

    async def scenario(door):
        door.computed_for = lambda: computed_for
        floods = [entering(door, share, PING, 40) for share in ("ada", "bob")]
        left = set()
        while min(map(n_in, floods)) < 30:  # of lines that move by turns neither has ended
            await asyncio.sleep(0.001)
            for task in {task for flood in floods for task in flood if task.done()} - left:
                task.result().left()
                left.add(task)

    run(scenario)


def test_lines_move_now_and_then_however_much_is_computed_for_others():
    async def scenario(door):
        door.computed_for = lambda: {"bob"}
        for task in entering(door, "ada", PING, 20):
            (await task).left()

    run(scenario)
