"""Virtual time: what waits for a paused loop comes in its order, however the pause ends."""

from sim.clock import Clock, MemberLoop, Timer


def started() -> tuple[Clock, MemberLoop, list[str]]:
    clock = Clock()
    loop = MemberLoop(clock, lambda text: None)
    told: list[str] = []
    for at_s, name in ((1.0, "a"), (2.0, "b"), (3.0, "c")):
        loop.call_at(1000.0 + at_s, told.append, name)
    return clock, loop, told


def turn(timer: Timer) -> None:
    timer.run()


def test_timers_come_in_order_of_time_and_then_of_making() -> None:
    clock, loop, told = started()
    loop.call_at(1002.0, told.append, "b2")
    loop.call_soon(loop.call_soon, told.append, "soon")
    loop.call_at(999.0, told.append, "late")
    clock.run_until(1010.0, turn)
    assert told == ["late", "soon", "a", "b", "b2", "c"] and clock.now_s == 1010.0


def test_a_pause_made_shorter_changes_no_order() -> None:
    clock, loop, told = started()
    loop.paused_until_s = 1009.0
    clock.run_until(1001.5, turn)
    loop.paused_until_s = 1002.5
    clock.run_until(1002.2, turn)
    assert told == []
    clock.run_until(1010.0, turn)
    assert told == ["a", "b", "c"]


def test_a_pause_that_is_called_off_changes_no_order() -> None:
    clock, loop, told = started()
    loop.paused_until_s = 1009.0
    clock.run_until(1002.5, turn)
    loop.paused_until_s = 0.0
    clock.run_until(1003.0, turn)
    assert told == ["a", "b", "c"]


def test_a_longer_pause_holds_all() -> None:
    clock, loop, told = started()
    loop.paused_until_s = 1002.5
    clock.run_until(1001.0, turn)
    loop.paused_until_s = 1005.0
    clock.run_until(1004.9, turn)
    assert told == []
    clock.run_until(1005.0, turn)
    assert told == ["a", "b", "c"]


def test_a_dead_loop_does_nothing() -> None:
    clock, loop, told = started()
    loop.paused_until_s = 1002.5
    clock.run_until(1001.0, turn)
    loop.kill()
    clock.run_until(1010.0, turn)
    assert told == []
