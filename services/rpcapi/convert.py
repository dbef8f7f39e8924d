"""Between the protocol's messages and the API's models, field by field and nothing else."""

import json
from datetime import UTC, datetime
from typing import Any

from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import presence_pb2, query_pb2
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from services.rpcapi import models

_KINDS: dict[int, models.KindName] = {0: "router", 1: "router", 2: "load_balancer"}


def time_of(message: Message, field: str) -> datetime | None:
    """A timestamp field as UTC; None when it is not set."""
    if not message.HasField(field):
        return None
    value: Timestamp = getattr(message, field)
    return value.ToDatetime(tzinfo=UTC)


def state_name(state: int) -> str:
    """`configured` for INSTANCE_STATE_CONFIGURED; `unknown` for what nobody looked at or a newer scheduler says."""
    return _name(resource_pb2.InstanceState, state, "INSTANCE_STATE_")


def state_number(name: models.StateName | None) -> resource_pb2.InstanceState.ValueType:
    """The inverse; None is UNSPECIFIED, which filters nothing."""
    if name is None or name == "unknown":
        return resource_pb2.INSTANCE_STATE_UNSPECIFIED
    return resource_pb2.InstanceState.Value(f"INSTANCE_STATE_{name.upper()}")


def resource(message: resource_pb2.Resource) -> models.Resource:
    """One resource."""
    return models.Resource.model_validate(
        {
            **_fields(message, "resource_id tenant_id name shard worker digest attempts last_error revision"),
            **_fields(message, "debug quarantined in_progress"),
            "kind": _KINDS.get(message.kind, "router"),
            "state": state_name(message.state),
            "since": time_of(message, "since"),
            "retry_at": time_of(message, "retry_at"),
            "instances": [_instance(instance) for instance in message.instances],
            "attachments": [_attachment(attachment) for attachment in message.attachments],
        }
    )


def operation(message: resource_pb2.Operation) -> models.Operation:
    """One operation; diagnoses are parsed, so that they show as JSON and not as text in JSON."""
    return models.Operation.model_validate(
        {
            **_fields(message, "operation_id target_id image_id requested_by reason total done failed message"),
            "kind": _name(resource_pb2.OperationKind, message.kind, "OPERATION_KIND_"),
            "scope": _name(resource_pb2.OperationScope, message.scope, "OPERATION_SCOPE_"),
            "state": _name(resource_pb2.OperationState, message.state, "OPERATION_STATE_"),
            "created_at": time_of(message, "created_at"),
            "updated_at": time_of(message, "updated_at"),
            "diagnoses": [_parsed(text) for text in message.diagnoses],
        }
    )


def history_line(message: query_pb2.HistoryLine) -> models.HistoryLine:
    """One line of history."""
    return models.HistoryLine.model_validate(
        {
            **_fields(message, "kind text reconcile_id worker"),
            "request_ids": list(message.request_ids),
            "at": time_of(message, "at"),
        }
    )


def worker(message: query_pb2.WorkerInfo) -> models.Worker:
    """One worker."""
    return models.Worker.model_validate(
        {
            **_fields(message, "worker incarnation version address connected shards resources unacked_hints"),
            "renewed_at": time_of(message, "renewed_at"),
            "joined_at": time_of(message, "joined_at"),
        }
    )


def service(message: presence_pb2.ServiceInfo) -> models.Service:
    """One instance of a service."""
    return models.Service.model_validate(
        {
            **_fields(message, "service host version address alive"),
            "started_at": time_of(message, "started_at"),
            "last_seen": time_of(message, "last_seen"),
        }
    )


def shard(message: query_pb2.ShardOwner) -> models.Shard:
    """One shard."""
    return models.Shard.model_validate(_fields(message, "shard worker term counter state"))


def debug_flag(message: resource_pb2.DebugFlag) -> models.DebugFlag:
    """One flag."""
    return models.DebugFlag.model_validate(
        {
            **_fields(message, "target_id reason set_by"),
            "scope": _name(resource_pb2.OperationScope, message.scope, "OPERATION_SCOPE_"),
            "set_at": time_of(message, "set_at"),
        }
    )


def finding(message: query_pb2.Finding) -> models.Finding:
    """One finding."""
    return models.Finding.model_validate(_fields(message, "resource_id server_id port_id finding"))


def change(message: query_pb2.WatchResourcesResponse) -> dict[str, Any]:
    """One message of the live stream, ready for JSON."""
    as_of = time_of(message, "as_of")
    return {
        "changed": [resource(entry).model_dump(mode="json") for entry in message.changed],
        "gone": list(message.gone_resource_ids),
        "synced": message.synced,
        "as_of": as_of.isoformat() if as_of else None,
        "complete": message.complete,
    }


def _instance(message: resource_pb2.Instance) -> dict[str, Any]:
    return {
        **_fields(message, "slot role instance_id server_id management_port_id image_id digest"),
        "management_addresses": list(message.management_addresses),
        "state": state_name(message.state),
        "booted_at": time_of(message, "booted_at"),
    }


def _attachment(message: resource_pb2.Attachment) -> dict[str, Any]:
    return {
        **_fields(message, "network_id port_id"),
        "subnet_ids": list(message.subnet_ids),
        "role": _name(resource_pb2.AttachmentRole, message.role, "ATTACHMENT_ROLE_"),
    }


def _fields(message: Message, names: str) -> dict[str, Any]:
    return {name: getattr(message, name) for name in names.split()}


def _name(enum: Any, number: int, prefix: str) -> str:
    if number == 0 or number not in enum.values():
        return "unknown"
    name: str = enum.Name(number)
    return name.removeprefix(prefix).lower()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
