"""What one message becomes, in the cases that the recordings do not show."""

import json
from typing import Any

import pytest
from astara.event.v1 import event_pb2 as pb

from services.common.marks import PortMark
from services.notifier.delivery import Acks
from services.notifier.envelope import MessageError, peek_event_type, unwrap
from services.notifier.normalise import Normaliser


def wrap(message: dict[str, Any]) -> bytes:
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()


def events(event_type: str, payload: Any, **more: Any) -> list[pb.Event]:
    return Normaliser("astara", lambda _: None).events(wrap({"event_type": event_type, "payload": payload, **more}))


PORT = {"id": "port-1", "network_id": "net-1", "project_id": "owner", "device_owner": "", "description": ""}


def test_older_and_flat_forms_of_the_envelope_are_read_too() -> None:
    message = {"event_type": "router.update.end", "payload": {"router": {"id": "r1"}}}
    for body in (wrap(message), json.dumps(message), json.dumps({"oslo.version": "2.0", "oslo.message": message})):
        assert unwrap(body) == message


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the body is not JSON at character 0"),
        (b'"text"', "the body is JSON but no object"),
        (b'{"oslo.message": "null"}', "oslo.message is JSON but no object"),
        (b'{"oslo.message": 7}', "oslo.message is int, not text"),
        (b"[" * 100_000, "the body is not JSON"),
    ],
)
def test_what_is_no_envelope_is_refused_with_its_reason(body: bytes, reason: str) -> None:
    with pytest.raises(MessageError, match=reason):
        unwrap(body)


def test_a_type_is_peeked_at_only_where_no_payload_can_pretend_one() -> None:
    honest = {"message_id": "m", "event_type": "port.update.start", "payload": {}}
    assert peek_event_type(wrap(honest)) == "port.update.start"
    nested = {"payload": {"event_type": "port.update.start"}, "event_type": "router.update.end"}
    assert peek_event_type(wrap(nested)) is None
    quoted = {"publisher_id": '"event_type": "port.update.start"', "event_type": "router.update.end"}
    assert peek_event_type(wrap(quoted)) == "router.update.end"


def test_the_project_is_the_owners_and_not_the_callers() -> None:
    (event,) = events("port.update.end", {"port": PORT}, _context_project_id="service", _context_request_id="req-1")
    assert event.subject.project_id == "owner"
    assert event.request_id == "req-1"
    assert event.subject.scope == pb.ATTACHMENT_SCOPE_INTERNAL


def test_ports_of_our_own_appliances_concern_nobody() -> None:
    ours = PortMark("astara", "r1", 0, "svc").description()
    assert events("port.update.end", {"port": {**PORT, "description": ours}}) == []
    other = PortMark("other", "r1", 0, "svc").description()
    assert len(events("port.update.end", {"port": {**PORT, "description": other}})) == 1


def test_a_change_of_a_routers_own_port_names_the_router() -> None:
    port = {**PORT, "device_owner": "network:router_gateway", "device_id": "r1", "project_id": ""}
    (event,) = events("port.update.end", {"port": port})
    assert event.subject.resource_id == "r1"


def test_the_port_of_a_server_does_not_name_the_server_as_router() -> None:
    (event,) = events("port.update.end", {"port": {**PORT, "device_owner": "compute:nova", "device_id": "vm"}})
    assert event.subject.resource_id == ""


@pytest.mark.parametrize("kind", ["router", "network", "subnet", "port", "floatingip"])
def test_a_bulk_message_becomes_one_event_for_each_object(kind: str) -> None:
    found = events(f"{kind}.update.end", {f"{kind}s": [{"id": "a", "network_id": "n"}, {"id": "b", "network_id": "n"}]})
    assert len(found) == 2


def test_a_disassociated_floating_ip_is_found_by_its_id_or_its_external_network() -> None:
    floating = {"id": "f1", "project_id": "owner", "floating_network_id": "ext", "router_id": None, "port_id": None}
    (event,) = events("floatingip.update.end", {"floatingip": floating})
    subject = pb.Subject(floating_ip_id="f1", project_id="owner", network_id="ext", scope=pb.ATTACHMENT_SCOPE_GATEWAY)
    assert event.subject == subject


def test_a_routers_revision_is_the_lower_bound_for_readers() -> None:
    (event,) = events(
        "router.update.end",
        {"router": {"id": "r1", "project_id": "p", "revision_number": 7}},
        timestamp="2026-11-22 11:58:27.989068",
    )
    assert event.revision == 7
    assert event.occurred_at.ToJsonString() == "2026-11-22T11:58:27.989068Z"


def test_a_type_that_the_table_does_not_know_is_told_and_ignored() -> None:
    told: list[str] = []
    body = wrap({"event_type": "router.change.end", "payload": {"router": {"id": "r1"}}})
    assert Normaliser("astara", told.append).events(body) == []
    assert told == ["router.change.end"]


def test_the_reason_of_a_refusal_quotes_no_payload() -> None:
    with pytest.raises(MessageError) as refused:
        events("port.update.end", {"port": {**PORT, "network_id": {"psk": "hidden"}}})
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    "message",
    [
        {"command": "tenant debug", "tenant_id": "t1", "reason": "why"},
        {"command": "tenant debug", "id": "t1", "reason": "why"},
        {"event_type": "astara.command", "payload": {"command": "tenant debug", "tenant_id": "t1", "reason": "why"}},
    ],
)
def test_a_command_is_read_from_each_spelling(message: dict[str, Any]) -> None:
    (event,) = Normaliser("astara", lambda _: None).command(json.dumps(message), "m1")
    assert event.command == pb.Command(verb="tenant debug", target_id="t1", reason="why")
    # Delivered twice, it is still one command.
    assert event.request_id == "m1"


@pytest.mark.parametrize("message", [{"command": "router rebuild"}, {"command": "ssh", "id": "r"}, {}, {"command": 5}])
def test_a_command_without_verb_or_target_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        Normaliser("astara", lambda _: None).command(json.dumps(message), "m1")


class TestAcks:
    """Acks are cumulative where they may be, and each message is acked once."""

    def test_in_order_they_are_one(self) -> None:
        acks = Acks()
        for tag in (2, 1, 3):
            acks.done(tag)
        assert acks.take() == [(3, True)]
        assert acks.take() == []

    def test_a_slow_message_holds_no_other(self) -> None:
        acks = Acks()
        for tag in (2, 3, 5):
            acks.done(tag)
        assert acks.take() == [(2, False), (3, False), (5, False)]
        acks.done(1)
        # Up to 1 only: 2 and 3 are acked already, and brokers refuse a second ack.
        assert acks.take() == [(1, True)]
        acks.done(4)
        acks.done(6)
        assert acks.take() == [(6, True)]


FORWARDING = {"id": "pf-1", "protocol": "tcp", "external_port": 80, "internal_port": 80, "internal_port_id": "port-1"}


def test_a_port_forwarding_is_taken_for_the_callers_because_it_names_no_project() -> None:
    for verb in ("create", "update"):
        (event,) = events(f"port_forwarding.{verb}.end", {"port_forwarding": FORWARDING}, _context_project_id="caller")
        subject = event.subject
        assert (subject.project_id, subject.port_id, subject.network_id) == ("caller", "port-1", "")
        assert subject.scope == pb.ATTACHMENT_SCOPE_GATEWAY
    owned = {**FORWARDING, "project_id": "owner", "floatingip_id": "fip-1"}
    gone = {"port_forwarding_id": "pf-1", "port_forwarding": owned}
    (event,) = events("port_forwarding.delete.end", gone, _context_project_id="caller")
    assert (event.subject.project_id, event.subject.floating_ip_id) == ("owner", "fip-1")
    assert events("port_forwarding.create.start", {"port_forwarding": FORWARDING}) == []
