"""The state machine of a resource as one table: which state follows which, for every action and instance state.

The table is data. It is checked when this module is imported: every state is reachable from CALC_ACTION, and every
state has an answer for every action in every instance state. The diagram in docs/ is generated from it. What the states
*do* is the driver's business; what they lead to is decided here and nowhere else (section 1.2.3 of the functional
description).
"""

import enum
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


class State(enum.Enum):
    """Where a resource's machine is."""

    CALC_ACTION = "CalcAction"  # merge the inbox into one action and choose the next step
    ALIVE = "Alive"  # ask the appliance, compare its digest
    CREATE_VM = "CreateVM"  # find or create the ports, boot through Nova
    CHECK_BOOT = "CheckBoot"  # look whether it answers, without waiting on a thread
    CONFIGURE_VM = "ConfigureVM"  # read Neutron, build, compare, push
    REPLUG_VM = "ReplugVM"  # attach and detach ports through Nova
    STOP_VM = "StopVM"  # delete the instance, and the ports when the resource is gone
    REBUILD_VM = "RebuildVM"  # as StopVM, on an operator's command, then boot
    CLEAR_ERROR = "ClearError"  # reset the attempts, and go on at once
    STATS = "Stats"  # read the traffic counters
    EXIT = "Exit"  # forget the resource


class Action(enum.IntEnum):
    """What is asked for; a larger value wins when several are."""

    POLL = 1
    READ = 2
    UPDATE = 3
    CREATE = 4
    REBUILD = 5
    DELETE = 6


class InstanceState(enum.Enum):
    """State of a resource's instance; names as in resource.proto."""

    DOWN = "DOWN"  # known not to run
    BOOTING = "BOOTING"  # Nova boots it
    UP = "UP"  # answers, and does not run the wanted configuration
    CONFIGURED = "CONFIGURED"  # answers, and runs the wanted configuration
    RESTART = "RESTART"  # must be booted anew
    REPLUG = "REPLUG"  # a port must be attached or detached
    GONE = "GONE"  # deleted in Neutron
    ERROR = "ERROR"  # too many boots failed; cooling down
    DEGRADED = "DEGRADED"  # of a pair, one is missing


@dataclass(frozen=True, slots=True)
class Rule:
    """In these instance states, for these actions, go there. Empty means any."""

    to: State
    instances: frozenset[InstanceState] = frozenset()
    actions: frozenset[Action] = frozenset()

    def matches(self, action: Action, instance: InstanceState) -> bool:
        """Whether the rule speaks of this case."""
        return (not self.instances or instance in self.instances) and (not self.actions or action in self.actions)


def _rule(to: State, *cases: InstanceState | Action) -> Rule:
    instances = frozenset(case for case in cases if isinstance(case, InstanceState))
    actions = frozenset(case for case in cases if isinstance(case, Action))
    return Rule(to, instances, actions)


_I = InstanceState
_A = Action
_S = State

# Read from the top: the first rule that matches decides.
TABLE: Final = MappingProxyType(
    {
        _S.CALC_ACTION: (
            _rule(_S.STOP_VM, _A.DELETE),
            _rule(_S.STOP_VM, _I.GONE),
            _rule(_S.CLEAR_ERROR, _I.ERROR),
            _rule(_S.REBUILD_VM, _A.REBUILD),
            _rule(_S.CHECK_BOOT, _I.BOOTING),
            _rule(_S.CREATE_VM, _I.DOWN, _I.DEGRADED),
            _rule(_S.STOP_VM, _I.RESTART),
            _rule(_S.ALIVE, _I.UP, _I.CONFIGURED, _I.REPLUG),
        ),
        _S.ALIVE: (
            _rule(_S.STOP_VM, _I.DOWN, _I.GONE, _I.RESTART),
            _rule(_S.CHECK_BOOT, _I.BOOTING),
            _rule(_S.REPLUG_VM, _I.REPLUG),
            _rule(_S.CONFIGURE_VM, _I.UP),
            _rule(_S.CONFIGURE_VM, _I.CONFIGURED, _A.CREATE, _A.UPDATE),
            _rule(_S.STATS, _I.CONFIGURED, _A.READ),
            _rule(_S.CALC_ACTION),
        ),
        _S.CREATE_VM: (
            _rule(_S.CHECK_BOOT, _I.BOOTING),
            _rule(_S.STOP_VM, _I.GONE),
            _rule(_S.CREATE_VM, _I.DOWN),
            _rule(_S.CALC_ACTION),
        ),
        _S.CHECK_BOOT: (
            _rule(_S.CONFIGURE_VM, _I.UP, _I.CONFIGURED),
            _rule(_S.REPLUG_VM, _I.REPLUG),
            _rule(_S.STOP_VM, _I.DOWN, _I.GONE, _I.RESTART),
            _rule(_S.CALC_ACTION),
        ),
        _S.CONFIGURE_VM: (
            _rule(_S.STATS, _I.CONFIGURED, _A.READ),
            _rule(_S.REPLUG_VM, _I.REPLUG),
            _rule(_S.STOP_VM, _I.GONE, _I.RESTART, _I.DOWN),
            _rule(_S.CALC_ACTION),
        ),
        _S.REPLUG_VM: (
            _rule(_S.CONFIGURE_VM, _I.UP, _I.CONFIGURED),
            _rule(_S.STOP_VM, _I.RESTART, _I.DOWN, _I.GONE),
            _rule(_S.CALC_ACTION),
        ),
        _S.STOP_VM: (
            _rule(_S.EXIT, _A.DELETE),
            _rule(_S.EXIT, _I.GONE),
            _rule(_S.CREATE_VM),
        ),
        _S.REBUILD_VM: (
            _rule(_S.EXIT, _I.GONE),
            _rule(_S.CREATE_VM),
        ),
        _S.CLEAR_ERROR: (
            _rule(_S.CALC_ACTION),
        ),
        _S.STATS: (
            _rule(_S.CALC_ACTION),
        ),
        _S.EXIT: (),
    }
)  # fmt: skip


def following(state: State, action: Action, instance: InstanceState) -> State:
    """The state after `state` has done its work for `action` and left the instance in `instance`."""
    for rule in TABLE[state]:
        if rule.matches(action, instance):
            return rule.to
    msg = f"no rule for {state.value} with {action.name}, {instance.value}"
    raise LookupError(msg)


def check_table() -> None:
    """Raise LookupError or ValueError when the table has a hole or a state that nothing leads to."""
    for state in State:
        if state is not State.EXIT:
            for action in Action:
                for instance in InstanceState:
                    following(state, action, instance)
    reached, found = {State.CALC_ACTION}, [State.CALC_ACTION]
    while found:
        targets = {rule.to for rule in TABLE[found.pop()]} - reached
        reached |= targets
        found.extend(targets)
    if missing := set(State) - reached:
        msg = f"nothing leads to {sorted(state.value for state in missing)}"
        raise ValueError(msg)


def arrows() -> list[tuple[State, str, State]]:
    """The table as arrows for documentation: from, in which case, to. "otherwise" is what no arrow above it names."""
    found = []
    for state, rules in TABLE.items():
        for rule in rules:
            who = ", ".join(sorted(action.name.lower() for action in rule.actions))
            what = ", ".join(sorted(instance.value for instance in rule.instances))
            found.append((state, " and ".join(part for part in (what, who) if part) or "otherwise", rule.to))
    return found


check_table()
