"""The table of the state machine, row by row as the architecture describes it."""

import pytest

from services.worker import states
from services.worker.states import Action, InstanceState, Rule, State, arrows, check_table, following

ANY_ACTION = list(Action)
NOT_DELETE = [action for action in Action if action is not Action.DELETE]
PLAIN = [Action.CREATE, Action.READ, Action.UPDATE, Action.POLL]
I, S, A = InstanceState, State, Action  # noqa: E741

ROWS = [
    # CalcAction
    *[(S.CALC_ACTION, [A.DELETE], instance, S.STOP_VM) for instance in InstanceState],
    (S.CALC_ACTION, ANY_ACTION, I.GONE, S.STOP_VM),
    (S.CALC_ACTION, NOT_DELETE, I.ERROR, S.CLEAR_ERROR),
    *[
        (S.CALC_ACTION, [A.REBUILD], instance, S.REBUILD_VM)
        for instance in InstanceState
        if instance not in (I.GONE, I.ERROR)
    ],
    (S.CALC_ACTION, PLAIN, I.BOOTING, S.CHECK_BOOT),
    (S.CALC_ACTION, PLAIN, I.DOWN, S.CREATE_VM),
    (S.CALC_ACTION, PLAIN, I.DEGRADED, S.CREATE_VM),
    (S.CALC_ACTION, PLAIN, I.RESTART, S.STOP_VM),
    (S.CALC_ACTION, PLAIN, I.REPLUG, S.ALIVE),
    (S.CALC_ACTION, PLAIN, I.UP, S.ALIVE),
    (S.CALC_ACTION, PLAIN, I.CONFIGURED, S.ALIVE),
    # Alive
    (S.ALIVE, ANY_ACTION, I.DOWN, S.STOP_VM),
    (S.ALIVE, ANY_ACTION, I.GONE, S.STOP_VM),
    (S.ALIVE, ANY_ACTION, I.RESTART, S.STOP_VM),
    (S.ALIVE, ANY_ACTION, I.REPLUG, S.REPLUG_VM),
    (S.ALIVE, [A.READ], I.CONFIGURED, S.STATS),
    (S.ALIVE, [A.POLL], I.CONFIGURED, S.CALC_ACTION),
    (S.ALIVE, ANY_ACTION, I.UP, S.CONFIGURE_VM),
    (S.ALIVE, [A.CREATE, A.UPDATE], I.CONFIGURED, S.CONFIGURE_VM),
    # CreateVM
    (S.CREATE_VM, ANY_ACTION, I.BOOTING, S.CHECK_BOOT),
    (S.CREATE_VM, ANY_ACTION, I.GONE, S.STOP_VM),
    (S.CREATE_VM, ANY_ACTION, I.ERROR, S.CALC_ACTION),
    (S.CREATE_VM, ANY_ACTION, I.DOWN, S.CREATE_VM),
    # CheckBoot
    (S.CHECK_BOOT, ANY_ACTION, I.UP, S.CONFIGURE_VM),
    (S.CHECK_BOOT, ANY_ACTION, I.BOOTING, S.CALC_ACTION),
    (S.CHECK_BOOT, ANY_ACTION, I.REPLUG, S.REPLUG_VM),
    (S.CHECK_BOOT, ANY_ACTION, I.DOWN, S.STOP_VM),
    (S.CHECK_BOOT, ANY_ACTION, I.GONE, S.STOP_VM),
    # ConfigureVM
    (S.CONFIGURE_VM, [A.READ], I.CONFIGURED, S.STATS),
    (S.CONFIGURE_VM, [A.UPDATE, A.CREATE, A.POLL], I.CONFIGURED, S.CALC_ACTION),
    (S.CONFIGURE_VM, ANY_ACTION, I.REPLUG, S.REPLUG_VM),
    (S.CONFIGURE_VM, ANY_ACTION, I.GONE, S.STOP_VM),
    (S.CONFIGURE_VM, ANY_ACTION, I.RESTART, S.STOP_VM),
    (S.CONFIGURE_VM, ANY_ACTION, I.DOWN, S.STOP_VM),
    # ReplugVM
    (S.REPLUG_VM, ANY_ACTION, I.UP, S.CONFIGURE_VM),
    (S.REPLUG_VM, ANY_ACTION, I.RESTART, S.STOP_VM),
    # StopVM
    (S.STOP_VM, [A.DELETE], I.DOWN, S.EXIT),
    (S.STOP_VM, ANY_ACTION, I.GONE, S.EXIT),
    (S.STOP_VM, NOT_DELETE, I.DOWN, S.CREATE_VM),
    # RebuildVM
    (S.REBUILD_VM, ANY_ACTION, I.DOWN, S.CREATE_VM),
    (S.REBUILD_VM, ANY_ACTION, I.GONE, S.EXIT),
    # Stats
    (S.STATS, ANY_ACTION, I.CONFIGURED, S.CALC_ACTION),
]


@pytest.mark.parametrize(("state", "actions", "instance", "expected"), ROWS)
def test_the_table_says_what_the_architecture_says(
    state: State, actions: list[Action], instance: InstanceState, expected: State
) -> None:
    assert {following(state, action, instance) for action in actions} == {expected}


def test_delete_wins_over_rebuild_over_create_over_update_over_read_over_poll() -> None:
    assert sorted(Action, reverse=True) == [A.DELETE, A.REBUILD, A.CREATE, A.UPDATE, A.READ, A.POLL]


ONLY_RULES = [
    (state, rule)
    for state, rules in states.TABLE.items()
    for rule in rules
    if not all(
        any(other.matches(a, i) for other in rules if other is not rule)
        for a in Action
        for i in InstanceState
        if rule.matches(a, i)
    )
]


@pytest.mark.parametrize(("state", "rule"), ONLY_RULES)
def test_a_hole_in_the_table_is_found(monkeypatch: pytest.MonkeyPatch, state: State, rule: Rule) -> None:
    rules = tuple(other for other in states.TABLE[state] if other is not rule)
    monkeypatch.setattr(states, "TABLE", {**states.TABLE, state: rules})
    with pytest.raises(LookupError, match=f"no rule for {state.value}"):
        check_table()


def test_a_state_that_nothing_leads_to_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = tuple(rule for rule in states.TABLE[S.CALC_ACTION] if rule.to is not S.REBUILD_VM)
    monkeypatch.setattr(states, "TABLE", {**states.TABLE, S.CALC_ACTION: rules})
    with pytest.raises(ValueError, match=r"nothing leads to .*RebuildVM"):
        check_table()


def test_an_empty_row_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "TABLE", {**states.TABLE, S.STATS: ()})
    with pytest.raises(LookupError, match="no rule for Stats"):
        check_table()


def test_the_arrows_of_the_diagram_are_the_rules_of_the_table() -> None:
    drawn = [(start, end) for start, _, end in arrows()]
    assert drawn == [(state, rule.to) for state, rules in states.TABLE.items() for rule in rules]
    assert (S.ALIVE, "CONFIGURED and create, update", S.CONFIGURE_VM) in arrows()
    assert (S.STATS, "otherwise", S.CALC_ACTION) in arrows()
