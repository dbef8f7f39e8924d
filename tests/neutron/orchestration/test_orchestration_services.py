import datetime as dt
from typing import ClassVar
from unittest import mock

from neutron.objects import agent as agent_objects
from neutron_lib import constants, context
from neutron_lib.plugins import directory
from orchestration_api import OTHER_PROJECT, SERVICE_PROJECT, Answer, AstaraTestCase, Json, admin, member
from oslo_config import cfg
from oslo_utils import timeutils

WORKER = {"binary": "astara-worker", "host": "worker-0", "started_at": "2026-11-23T04:00:00Z", "configurations": {}}
HEALTH = {"binary": "astara-health", "host": "health-0"}


class ServicesTestCase(AstaraTestCase):
    def report(self, *services: object, deployment: str = "astara", caller: context.Context | None = None) -> Answer:
        return self.call("PUT", f"/astara-services/{deployment}", {"services": list(services)}, caller)

    def agents(self) -> dict[tuple[str, str], Json]:
        listed = self.call("GET", "/agents").body["agents"]
        return {(one["agent_type"], one["host"]): one for one in listed}

    def later(self, seconds: int) -> None:
        """That much time passes for all that is in the list."""
        admin_context = context.get_admin_context()
        for agent in agent_objects.Agent.get_objects(admin_context):
            agent.heartbeat_timestamp -= dt.timedelta(seconds=seconds)
            agent.update()


class TestServices(ServicesTestCase):
    def test_operators_see_them_alive_and_what_they_are(self):
        told = self.report(WORKER | {"configurations": {"shards": 512, "version": "0.1.0"}}, HEALTH)
        assert told.status == 200
        assert told.body["services"][1] == HEALTH
        agents = self.agents()
        assert sorted(agents) == [("Astara health", "health-0"), ("Astara worker", "worker-0")]
        worker = agents["Astara worker", "worker-0"]
        assert (worker["alive"], worker["admin_state_up"], worker["binary"]) == (True, True, "astara-worker")
        assert worker["configurations"] == {"shards": 512, "version": "0.1.0"}
        assert self.call("GET", f"/agents/{worker['id']}").body["agent"]["host"] == "worker-0"

    def test_who_is_not_named_any_more_turns_dead_and_is_forgotten_in_time(self):
        self.report(WORKER, HEALTH)
        self.later(cfg.CONF.agent_down_time + 1)
        assert not any(one["alive"] for one in self.agents().values())
        self.report(WORKER)
        assert {kind: one["alive"] for (kind, _host), one in self.agents().items()} == {
            "Astara worker": True,
            "Astara health": False,
        }
        self.later(cfg.CONF.astara.forget_services_after - cfg.CONF.agent_down_time - 10)
        self.report(WORKER)
        assert len(self.agents()) == 2
        self.later(20)
        self.report(WORKER)
        assert list(self.agents()) == [("Astara worker", "worker-0")]
        self.later(cfg.CONF.astara.forget_services_after + 1)
        self.report()
        assert self.agents() == {}

    def test_other_deployments_and_neutrons_own_agents_are_left_alone(self):
        core = directory.get_plugin()
        open_vswitch = {
            "agent_type": constants.AGENT_TYPE_OVS,
            "binary": "neutron-openvswitch-agent",
            "host": "worker-0",
            "topic": constants.L2_AGENT_TOPIC,
            "configurations": {"bridge_mappings": {}},
        }
        core.create_or_update_agent(context.get_admin_context(), open_vswitch)
        self.report(WORKER, deployment="blue")
        self.report(WORKER)
        assert sorted(self.agents()) == [
            ("Astara worker", "worker-0"),
            ("Astara worker (blue)", "worker-0"),
            ("Open vSwitch agent", "worker-0"),
        ]
        self.later(cfg.CONF.astara.forget_services_after + 1)
        self.report()
        assert sorted(self.agents()) == [("Astara worker (blue)", "worker-0"), ("Open vSwitch agent", "worker-0")]
        assert not any(one["alive"] for one in self.agents().values())

    def test_a_restart_shows_when_it_began(self):
        def started() -> dt.datetime:
            return timeutils.parse_strtime(
                self.agents()["Astara worker", "worker-0"]["started_at"], "%Y-%m-%d %H:%M:%S"
            )

        at = dt.datetime(2026, 11, 23, 5, 0, 0)  # noqa: DTZ001 - as Neutron keeps times
        with mock.patch.object(timeutils, "utcnow", return_value=at) as now:
            self.report(WORKER)
            assert started() == at
            now.return_value = at + dt.timedelta(seconds=30)
            self.report(WORKER)
            assert started() == at
            now.return_value = at + dt.timedelta(seconds=60)
            self.report(WORKER | {"started_at": "2026-11-23T06:00:45+01:00"})
            assert started() == at + dt.timedelta(seconds=60)
            now.return_value = at + dt.timedelta(seconds=90)
            self.report(WORKER | {"started_at": "2026-11-23T06:00:45+01:00"})
            assert started() == at + dt.timedelta(seconds=60)

    def test_who_may(self):
        assert self.report(WORKER, caller=member()).status == 403
        self.load_policy(astara_orchestrator="user_id:orchestrator")
        assert self.report(WORKER, caller=admin("somebody", OTHER_PROJECT)).status == 403
        self.load_policy(astara_orchestrator="role:astara_orchestrator")
        assert self.report(WORKER, caller=member(SERVICE_PROJECT, "astara_orchestrator")).status == 200

    def test_what_a_table_could_not_keep_of_a_host_is_replaced(self):
        assert self.report(HEALTH | {"host": "a💥b"}).status == 200
        assert [name for _, name in self.agents()] == ["a\ufffdb"]

    def test_what_was_taken_of_configurations_can_be_shown(self):
        deep: list[object] = []
        for _ in range(27):
            deep = [deep]
        assert self.report(HEALTH | {"configurations": {"a": deep}}).status == 200
        assert self.agents()["Astara health", "health-0"]["configurations"] == {"a": deep}
        for _ in range(900):
            deep = [deep]
        refused = self.report(HEALTH | {"configurations": {"a": deep}})
        assert (refused.status, "at most 32 levels" in refused.message) == (400, True), refused.body

    def test_bad_input_names_the_field_and_changes_nothing(self):
        bad = {
            "services[1]": ["x", None, []],
            "services[1].binary": [
                {},
                {"host": "h"},
                *(HEALTH | {"binary": one} for one in ("x", "neutron-x", 1, None)),
            ],
            "services[1].host": [{"binary": "astara-x"}, *(HEALTH | {"host": one} for one in ("", "x" * 256, 1, None))],
            "services[1].started_at": [HEALTH | {"started_at": one} for one in ("yesterday", 1, {})],
            "services[1].configurations": [HEALTH | {"configurations": one} for one in ([], "x", {"x": "x" * 4095})],
            "services[1].alive": [HEALTH | {"alive": True}],
            "services": [WORKER],
        }
        for field, wrong in bad.items():
            for one in wrong:
                refused = self.report(WORKER, one)
                assert refused.status == 400, one
                assert refused.message.startswith(f"{field}:"), (refused.message, one)
        for value in (None, {}, "x", [HEALTH] * 1001):
            assert self.call("PUT", "/astara-services/astara", {"services": value}).status == 400
        for number in (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999"):
            text = b'{"services": [{"binary": "astara-worker", "host": "h", "configurations": {"a": %s}}]}' % number
            refused = self.call("PUT", "/astara-services/astara", text)
            assert (refused.status, number.decode() in refused.message) == (400, True), refused.body
        for deployment in ("UPPER", "x" * 17, "a%20b"):
            assert self.report(WORKER, deployment=deployment).message.startswith("deployment:")
        assert self.agents() == {}


class TestServicesBesideAgents(ServicesTestCase):
    """Neutron's own router plugin, whose schedulers look for agents."""

    l3_plugin: ClassVar[str] = "router"

    def test_neither_a_router_nor_a_network_is_given_to_them(self):
        self.report(WORKER | {"configurations": {"bridge_mappings": {"physnet1": "br"}}, "host": "compute-1"})
        core = directory.get_plugin()
        for kind in (constants.AGENT_TYPE_L3, constants.AGENT_TYPE_DHCP, constants.AGENT_TYPE_OVS):
            assert core.get_agents(context.get_admin_context(), filters={"agent_type": [kind]}) == []
        network = self.network()
        router = self.made("router", member(), name="r")
        assert self.call("GET", f"/networks/{network['id']}/dhcp-agents").body.get("agents", []) == []
        assert self.call("GET", f"/routers/{router['id']}").body["router"]["availability_zones"] == []
