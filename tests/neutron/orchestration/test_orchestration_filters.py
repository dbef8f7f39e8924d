"""What Neutron's filters let pass between an instance and an appliance's service port, whose MAC and addresses are
not those of the router's interface."""

from unittest import mock

from neutron.agent.linux.openvswitch_firewall import firewall as open_vswitch
from neutron.api.rpc.handlers import securitygroups_rpc
from neutron_lib import constants, context
from orchestration_api import AstaraTestCase, Json, member

_SOURCES = {"dl_src", "nw_src", "ipv6_src", "arp_spa", "arp_sha", "nd_target"}


class TestRulesForAgents(AstaraTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.net = self.network()
        self.made("subnet", member(), network_id=self.net["id"], ip_version=6, cidr="fd00::/64")

    def told(self, port: Json) -> Json:
        """What an L2 agent hears of a port."""
        callback = securitygroups_rpc.SecurityGroupServerRpcCallback()
        found: Json = callback.security_group_info_for_devices(context.get_admin_context(), devices=[port["id"]])
        return found["devices"]

    def test_instances_take_dhcp_and_router_advertisements_from_whoever_sends_them(self):
        port = self.made("port", member(), network_id=self.net["id"], device_owner="compute:nova")
        [told] = self.told(port).values()
        rules = [one for one in told["security_group_rules"] if "security_group_id" not in one]
        answers = {
            (one["ethertype"], one["source_port_range_min"], one.get("port_range_min"))
            for one in rules
            if one["direction"] == "ingress"
        }
        assert answers == {
            ("IPv4", 67, 68),
            ("IPv6", 547, 546),
            ("IPv6", constants.ICMPV6_TYPE_RA, None),
        }
        assert not [one for one in rules if one["direction"] == "ingress" and "source_ip_prefix" in one]

    def test_a_service_port_is_not_filtered_at_all(self):
        port = self.service_port(self.net)
        assert all(one["port_security_enabled"] is False for one in self.told(port).values())
        assert port["security_groups"] == []


class TestOpenVswitch(AstaraTestCase):
    def test_instances_take_arp_dhcp_and_router_advertisements_from_whoever_sends_them(self):
        flows: list[Json] = []
        driver = mock.Mock(permitted_ethertypes=[])
        driver._add_flow = lambda **flow: flows.append(flow)
        driver._initialize_ingress_ipv6_icmp = lambda port: (
            open_vswitch.OVSFirewallDriver._initialize_ingress_ipv6_icmp(driver, port)
        )
        open_vswitch.OVSFirewallDriver._initialize_ingress(driver, mock.Mock(ofport=7))
        outputs = [flow for flow in flows if flow["actions"] == "output:7"]
        assert not [flow for flow in outputs if _SOURCES & set(flow)]
        taken = {(flow["dl_type"], flow.get("tp_src"), flow.get("icmp_type")) for flow in outputs}
        wanted = {
            (constants.ETHERTYPE_ARP, None, None),
            (constants.ETHERTYPE_IP, 67, None),
            (constants.ETHERTYPE_IPV6, 547, None),
            (constants.ETHERTYPE_IPV6, None, constants.ICMPV6_TYPE_RA),
            (constants.ETHERTYPE_IPV6, None, constants.ICMPV6_TYPE_NS),
        }
        assert wanted <= taken
