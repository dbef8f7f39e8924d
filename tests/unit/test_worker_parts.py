"""The worker's small parts: ownership and lease, budgets, flags, reports, boot data, settings, the inbox's rebuilds."""

import base64
import json

import pytest
import yaml
from astara.resource.v1 import resource_pb2 as pb
from astara.scheduler.v1 import work_pb2 as work
from astara_appliance.boot import BootData

from services.common import claim, marks
from services.common.clock import ManualClock
from services.common.settings import SettingsError, load
from services.worker import bootdata
from services.worker.flags import DebugFlags
from services.worker.inbox import BITS, MAX_CAUSES, NEVER, Inbox
from services.worker.machine import RetryPolicy
from services.worker.ownership import Epoch, Ownership
from services.worker.report import MAX_BATCH, MAX_HISTORY, Reporter
from services.worker.resource import Instance, ManagedResource
from services.worker.safety import Budget
from services.worker.settings import ApplianceSettings, RouterSettings, WorkerSettings
from services.worker.states import Action, InstanceState

# Ownership


def held(shard: int, term: int, counter: int) -> work.HeldShard:
    return work.HeldShard(shard=shard, term=term, counter=counter)


def test_a_lease_is_measured_from_the_moment_the_renewal_was_sent() -> None:
    clock = ManualClock()
    own = Ownership(clock)
    own.welcome(10_000, clock.lease())
    own.grant(held(7, 1, 1))
    clock.advance(6)
    renewal = own.renewal()
    clock.advance(3)  # the answer took its time
    own.renewed(renewal.nonce)
    assert own.lease_remaining() == pytest.approx(7)
    clock.advance(7)
    assert not own.may_act(7)


def test_a_worker_acts_only_for_shards_it_holds_while_its_lease_lasts() -> None:
    clock = ManualClock()
    own = Ownership(clock)
    own.grant(held(7, 1, 1))
    assert not own.may_act(7)  # no lease yet
    own.welcome(10_000, clock.lease())
    assert own.may_act(7)
    assert not own.may_act(8)
    own.drop(7)
    assert not own.may_act(7)


def test_answers_to_unknown_or_old_renewals_lengthen_nothing() -> None:
    clock = ManualClock()
    own = Ownership(clock)
    own.welcome(10_000, clock.lease())
    first = own.renewal()
    clock.advance(4)
    second = own.renewal()
    own.renewed(second.nonce)
    assert own.lease_remaining() == pytest.approx(10)
    own.renewed(first.nonce)
    own.renewed(999)
    assert own.lease_remaining() == pytest.approx(10)


def test_an_older_epoch_of_a_shard_is_not_taken() -> None:
    own = Ownership(ManualClock())
    assert own.grant(held(7, 2, 1))
    assert not own.grant(held(7, 1, 9))
    assert own.epoch(7) == Epoch(2, 1)
    assert own.grant(held(7, 2, 2))
    assert own.held() == [held(7, 2, 2)]


# Budgets and pauses


def test_a_budget_is_a_number_or_a_share_and_comes_back_with_time() -> None:
    clock, population = ManualClock(), [100]
    budget = Budget(clock, lambda: population[0], 5, 0.02, 3600.0)
    assert [budget.draw() for _ in range(6)] == [True] * 5 + [False]
    population[0] = 1000
    assert budget.limit() == 20
    assert budget.draw()
    clock.advance(3601)
    population[0] = 0
    assert [budget.draw() for _ in range(6)] == [True] * 5 + [False]


def test_pauses_double_up_to_the_last_and_spread_by_resource() -> None:
    policy = RetryPolicy(2.0, 1800.0)
    assert [policy.delay(n, 0.0) for n in (1, 2, 3)] == [2.0, 4.0, 8.0]
    assert policy.delay(1, 1.0) == 2.5
    assert policy.delay(1000, 1.0) == 1800.0


# Debug flags


def flag(scope: "pb.OperationScope.ValueType", target: str = "") -> pb.DebugFlag:
    return pb.DebugFlag(scope=scope, target_id=target)


def test_flags_cover_a_resource_a_tenant_or_everything() -> None:
    flags = DebugFlags()
    flags.change(flag(pb.OPERATION_SCOPE_RESOURCE, "r1"), cleared=False)
    flags.change(flag(pb.OPERATION_SCOPE_TENANT, "t2"), cleared=False)
    assert flags.covers("r1", "t1")
    assert flags.covers("r9", "t2")
    assert not flags.covers("r9", "t1")
    flags.change(flag(pb.OPERATION_SCOPE_GLOBAL), cleared=False)
    assert flags.covers("r9", "t1")
    flags.replace([flag(pb.OPERATION_SCOPE_TENANT, "t1")])
    assert flags.covers("r9", "t1")
    assert not flags.covers("r1", "t3")
    flags.change(flag(pb.OPERATION_SCOPE_TENANT, "t1"), cleared=True)
    assert not flags.covers("r9", "t1")


# Reports


def resource(name: str = "r1", tenant: str = "t1") -> ManagedResource:
    return ManagedResource(name, tenant, pb.RESOURCE_KIND_ROUTER, marks.shard_of(tenant))


def test_a_resource_that_changes_often_is_reported_once_as_it_is() -> None:
    reporter, one = Reporter("w", DebugFlags(), ManualClock()), resource()
    for state in (InstanceState.DOWN, InstanceState.BOOTING, InstanceState.CONFIGURED):
        one.state = state
        reporter.changed(one)
    (message,) = reporter.take()
    assert [r.state for r in message.status.resources] == [pb.INSTANCE_STATE_CONFIGURED]
    assert not reporter.pending()


def test_a_report_tells_all_that_an_operator_asks_for() -> None:
    clock = ManualClock(1000.0)
    reporter, one = Reporter("w", DebugFlags(), clock), resource()
    one.state, one.name, one.wanted_digest, one.attempts, one.last_error = InstanceState.UP, "n", "v1:x", 2, "why"
    one.retry_at, one.revision = clock.lease() + 30, 7
    one.attachments = (("net", pb.ATTACHMENT_ROLE_INTERNAL, "port", ("subnet",)),)
    one.instance = Instance("boot", "server", {"id": "mp", "fixed_ips": [{"ip_address": "::5"}]}, "img", "", 900.0)
    reporter.changed(one)
    (told,) = reporter.take()[0].status.resources
    assert (told.name, told.worker, told.digest, told.attempts, told.last_error, told.revision) == (
        "n", "w", "v1:x", 2, "why", 7,
    )  # fmt: skip
    assert told.retry_at.seconds == 1030
    assert told.attachments[0].subnet_ids == ["subnet"]
    (instance,) = told.instances
    assert (instance.instance_id, instance.server_id, instance.management_addresses) == ("boot", "server", ["::5"])
    assert (instance.image_id, instance.booted_at.seconds) == ("img", 900)


def test_a_forgotten_resource_is_gone_until_it_is_known_again() -> None:
    reporter, one = Reporter("w", DebugFlags(), ManualClock()), resource()
    reporter.changed(one)
    reporter.forgotten(one)
    (message,) = reporter.take()
    assert (list(message.status.gone_resource_ids), len(message.status.resources)) == (["r1"], 0)
    reporter.forgotten(one)
    reporter.changed(one)
    (message,) = reporter.take()
    assert (list(message.status.gone_resource_ids), len(message.status.resources)) == ([], 1)


def test_reports_are_split_and_history_is_bounded() -> None:
    reporter = Reporter("w", DebugFlags(), ManualClock())
    for number in range(MAX_BATCH + 1):
        reporter.changed(resource(f"r{number}"))
    one = resource()
    for number in range(MAX_HISTORY + 5):
        reporter.happened(one, "state", str(number))
    messages = reporter.take()
    assert all(len(m.status.resources) <= MAX_BATCH and len(m.status.history) <= MAX_BATCH for m in messages)
    assert sum(len(m.status.resources) for m in messages) == MAX_BATCH + 1
    lines = [entry.text for m in messages for entry in m.status.history]
    assert (len(lines), lines[0], lines[-1]) == (MAX_HISTORY, "5", str(MAX_HISTORY + 4))


def test_operations_are_reported_before_the_status_that_they_led_to() -> None:
    reporter, one = Reporter("w", DebugFlags(), ManualClock()), resource()
    reporter.changed(one)
    reporter.operation(one, "op", pb.OPERATION_STATE_SUCCEEDED, "")
    assert [message.WhichOneof("message") for message in reporter.take()] == ["operation", "status"]


# Boot data


@pytest.mark.parametrize("key", ["", "ssh-ed25519 AAAA operator"])
def test_an_appliance_reads_the_facts_that_it_was_booted_with(key: str) -> None:
    router = RouterSettings("i", "f", "n", ssh_public_key=key, orchestrator_addresses=("fdca::1",), metadata_port=9697)
    appliance = ApplianceSettings("a-secret-long-enough")
    ids = [f"00000000-0000-4000-8000-{n:012d}" for n in range(3)]
    mark = marks.ServerMark("lab", ids[0], 0, ids[1], "op")
    management = {"mac_address": "fa:00:00:00:00:01", "cidrs": ["fdca::5/64"], "mtu": 1450, "gateway": None}
    text = base64.b64decode(bootdata.user_data(mark, ids[2], management, router, appliance, [])).decode()
    assert text.splitlines()[0] == "#cloud-config"
    cloud_config = yaml.safe_load(text)
    (entry,) = cloud_config["write_files"]
    assert (entry["path"], entry["permissions"]) == ("/etc/astara/appliance.json", "0600")
    boot = BootData.model_validate(json.loads(entry["content"]))
    assert (boot.deployment, boot.resource_id, boot.tenant_id, boot.instance) == ("lab", ids[0], ids[2], ids[1])
    assert boot.listen_addresses == ("fdca::5",)
    assert boot.management.mtu == 1450
    assert boot.orchestrator.addresses == ["fdca::1"]
    assert boot.token == marks.appliance_token("a-secret-long-enough", "lab", ids[0], 0, ids[1])
    users = cloud_config.get("users", [])
    assert [user["ssh_authorized_keys"] for user in users] == ([[key]] if key else [])
    assert appliance.secret not in text


# Settings


def test_a_start_without_a_claim_is_refused_naming_the_three_choices() -> None:
    with pytest.raises(SettingsError) as refused:
        load("worker", [], (WorkerSettings, claim.ClaimSettings))
    for choice in ("all", "flavor", "provider"):
        assert choice in str(refused.value)


def test_the_appliances_secret_is_in_no_representation() -> None:
    assert "hidden-from-logs" not in repr(ApplianceSettings("hidden-from-logs"))


# The inbox


def rebuild(name: str, at: int) -> pb.Operation:
    operation = pb.Operation(operation_id=name, kind=pb.OPERATION_KIND_REBUILD, image_id=f"image-{name}")
    operation.created_at.FromSeconds(at)
    return operation


def test_a_rebuild_that_is_on_the_server_settles_itself_and_older_ones() -> None:
    inbox = Inbox()
    inbox.merge_hint(work.Hint(operations=[rebuild("c", 3), rebuild("a", 1), rebuild("b", 2)]))
    assert [one.operation_id for one in inbox.rebuilds()] == ["a", "b", "c"]
    inbox.settle_rebuilds("b")
    assert [one.operation_id for one in inbox.rebuilds()] == ["c"]
    assert set(inbox.operations) == {"a", "b", "c"}
    assert inbox.action() is Action.REBUILD
    inbox.settle_rebuilds("unknown")
    assert inbox.action() is Action.REBUILD
    inbox.settle_rebuilds()
    assert inbox.action() is Action.UPDATE


def test_settling_changes_no_hint_that_was_merged_elsewhere() -> None:
    hint = work.Hint(operations=[rebuild("a", 1)])
    inbox = Inbox()
    inbox.merge_hint(hint)
    inbox.settle_rebuilds()
    assert hint.operations[0].kind == pb.OPERATION_KIND_REBUILD


def test_only_polls_and_reads_expire() -> None:
    poll = Inbox()
    poll.merge_hint(work.Hint(actions=BITS[Action.POLL], expires_at_ms=1000))
    assert not poll.expired(999)
    assert poll.expired(1001)
    poll.merge_hint(work.Hint(actions=BITS[Action.UPDATE], expires_at_ms=1000))
    assert not poll.expired(1001)
    for_ever = Inbox()
    for_ever.merge_hint(work.Hint(actions=BITS[Action.POLL]))
    assert not for_ever.expired(NEVER - 1)


def test_causes_are_kept_but_not_without_end() -> None:
    inbox = Inbox()
    for number in range(30):
        inbox.merge_hint(work.Hint(request_ids=[f"req-{number:02d}"]))
    assert len(inbox.causes) == MAX_CAUSES
