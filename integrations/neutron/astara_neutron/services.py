"""Astara's services in Neutron's list of agents, so that operators see with their usual tools whether they live.

An entry is a row of Neutron's own; its `topic` says whose deployment it is, and only rows with that topic are touched.
No agent scheduler takes them for its own: each asks for the types of agents that it knows.
"""

import datetime as dt
import re
from dataclasses import dataclass
from typing import Any

from neutron.objects import agent as agent_objects
from neutron_lib.db import api as db_api
from neutron_lib.plugins import directory
from oslo_config import cfg
from oslo_serialization import jsonutils
from oslo_utils import timeutils

from . import options, web

_FIELD = "services"
_TOPIC = "astara:{}"
_DEPLOYMENT = re.compile(r"[a-z0-9-]{1,16}")
_BINARY = re.compile(r"astara-[a-z0-9-]{1,64}")
_USUAL_DEPLOYMENT = "astara"
_LONGEST_HOST = 255
_LONGEST_CONFIGURATIONS = 4095
_MOST = 1000


@dataclass(frozen=True, slots=True)
class Service:
    """One service as the orchestrator reports it: alive now."""

    binary: str
    host: str
    started_at: dt.datetime | None
    configurations: dict[str, Any]


def checked(deployment: str, told: Any) -> list[Service]:
    """What a request says. WrongField (400)."""
    if not _DEPLOYMENT.fullmatch(deployment):
        raise web.WrongField("deployment", "1 to 16 of a-z, 0-9 and - are expected")
    if not isinstance(told, list) or len(told) > _MOST:
        raise web.WrongField(_FIELD, f"a list of at most {_MOST} objects is expected")
    found = [_service(f"{_FIELD}[{number}]", one) for number, one in enumerate(told)]
    if len({(one.binary, one.host) for one in found}) != len(found):
        raise web.WrongField(_FIELD, "each binary may be named once for a host")
    return found


def report(context: Any, deployment: str, services: list[Service]) -> None:
    """Show these services alive. Others of the deployment turn dead by Neutron's rule, and are forgotten in time."""
    context = context.elevated()
    core = directory.get_plugin()
    topic = _TOPIC.format(deployment)
    known = {(agent.agent_type, agent.host): agent for agent in agent_objects.Agent.get_objects(context, topic=topic)}
    for service in services:
        kind = agent_type(deployment, service.binary)
        agent = known.pop((kind, service.host), None)
        core.create_or_update_agent(
            context,
            {
                "agent_type": kind,
                "binary": service.binary,
                "host": service.host,
                "topic": topic,
                "configurations": service.configurations,
                "start_flag": bool(agent and service.started_at and service.started_at > agent.started_at),
            },
            timeutils.utcnow(),
        )
    _forget(context, [agent for agent in known.values() if _is_old(agent)])


def agent_type(deployment: str, binary: str) -> str:
    """How a service is called in the list: `Astara worker`; with its deployment where that is not the usual one.

    Neutron has one agent of a type on a host, and hosts of two deployments may have the same names.
    """
    name = f"Astara {binary.removeprefix('astara-').replace('-', ' ')}"
    return name if deployment == _USUAL_DEPLOYMENT else f"{name} ({deployment})"


@db_api.retry_if_session_inactive()
def _forget(context: Any, agents: list[Any]) -> None:
    if agents:
        # Not the core plugin's call: that asks OVN first, and tells those who look after agents that hold networks.
        agent_objects.Agent.delete_objects(context, id=[agent.id for agent in agents])


def _is_old(agent: Any) -> bool:
    return bool(timeutils.is_older_than(agent.heartbeat_timestamp, cfg.CONF[options.GROUP].forget_services_after))


def _service(field: str, told: Any) -> Service:
    if not isinstance(told, dict):
        raise web.WrongField(field, "an object is expected")
    if unknown := sorted(set(told) - {"binary", "host", "started_at", "configurations"}):
        raise web.WrongField(f"{field}.{unknown[0]}", "unknown")
    binary, host = told.get("binary"), told.get("host")
    if not isinstance(binary, str) or not _BINARY.fullmatch(binary):
        raise web.WrongField(f"{field}.binary", "a name like astara-worker is expected")
    if not isinstance(host, str) or not 0 < len(host) <= _LONGEST_HOST:
        raise web.WrongField(f"{field}.host", f"a text of 1 to {_LONGEST_HOST} characters is expected")
    configurations = told.get("configurations", {})
    if not isinstance(configurations, dict) or len(jsonutils.dumps(configurations)) > _LONGEST_CONFIGURATIONS:
        raise web.WrongField(
            f"{field}.configurations", f"an object of at most {_LONGEST_CONFIGURATIONS} characters of JSON is expected"
        )
    return Service(binary, web.storable(host), _time(f"{field}.started_at", told.get("started_at")), configurations)


def _time(field: str, text: Any) -> dt.datetime | None:
    """In UTC and without zone, as Neutron keeps times."""
    if text is None:
        return None
    try:
        found: dt.datetime = timeutils.normalize_time(timeutils.parse_isotime(text))
    except (TypeError, ValueError, OverflowError):
        raise web.WrongField(field, "a time like 2026-11-23T04:00:00Z is expected") from None
    return found
