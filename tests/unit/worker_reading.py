"""A router as Neutron describes it, with everything that a configuration can hold."""

from typing import Any

from services.worker.reading import RouterReading


def uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


ROUTER, EXTERNAL, PRIVATE, SHARED, MANAGEMENT = (uuid(n) for n in range(1, 6))
EXT4, EXT6, PRIV4, PRIV6, SHARED4 = (uuid(n) for n in range(11, 16))
PROJECT = "0123456789abcdef0123456789abcdef"
MANAGEMENT_MAC, EXTERNAL_MAC, PRIVATE_MAC, SHARED_MAC = (f"fa:00:00:00:00:0{n}" for n in range(1, 5))

MACS = {EXTERNAL: EXTERNAL_MAC, PRIVATE: PRIVATE_MAC, SHARED: SHARED_MAC}
NAMES = {MANAGEMENT_MAC: "ge0", EXTERNAL_MAC: "ge1", PRIVATE_MAC: "ge2", SHARED_MAC: "ge3"}
MANAGEMENT_PORT: dict[str, Any] = {
    "id": uuid(20), "network_id": MANAGEMENT, "mac_address": MANAGEMENT_MAC, "mtu": 1500,
    "cidrs": ["fdca:3ba5:a17a:acda::5/64"],
}  # fmt: skip


def subnet(number: str, network: str, cidr: str, gateway: str | None, **more: Any) -> dict[str, Any]:
    return {
        "id": number, "network_id": network, "cidr": cidr, "gateway_ip": gateway, "ip_version": 6 if ":" in cidr else 4,
        "enable_dhcp": True, "dns_nameservers": [], "host_routes": [], "ipv6_address_mode": None, "ipv6_ra_mode": None,
        "revision_number": 3, "updated_at": "2026-01-01T00:00:00Z", **more,
    }  # fmt: skip


def port(number: int, network: str, owner: str, *addresses: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {
        "id": uuid(number), "network_id": network, "device_owner": owner, "device_id": ROUTER, "description": "",
        "mac_address": f"fa:16:3e:00:00:{number:02x}", "dns_name": "", "admin_state_up": True,
        "fixed_ips": [{"subnet_id": where, "ip_address": address} for where, address in addresses], **more,
    }  # fmt: skip


def reading(**router: Any) -> RouterReading:
    """Two internal networks, one of them shared, and a gateway, all with IPv4 and some with IPv6."""
    interfaces = [
        port(31, PRIVATE, "network:router_interface", (PRIV4, "10.0.0.1")),
        port(32, PRIVATE, "network:router_interface", (PRIV6, "fd00::1")),
        port(33, SHARED, "network:router_interface", (SHARED4, "10.9.0.7")),
    ]
    gateway = port(34, EXTERNAL, "network:router_gateway", (EXT4, "172.24.4.20"), (EXT6, "2001:db8::20"))
    return RouterReading(
        router={
            "id": ROUTER, "name": "my router!", "project_id": PROJECT, "admin_state_up": True, "revision_number": 9,
            "external_gateway_info": {"network_id": EXTERNAL, "enable_snat": True},
            "routes": [{"destination": "192.0.2.0/24", "nexthop": "10.0.0.9"},
                       {"destination": "2001:db8:1::/48", "nexthop": "fd00::9"}], **router,
        },
        server_id="server",
        interface_ports=interfaces,
        gateway_port=gateway,
        instance_ports=[port(40, MANAGEMENT, "compute:nova", device_id="server", mac_address=MANAGEMENT_MAC)],
        networks={
            EXTERNAL: {"id": EXTERNAL, "name": "public", "mtu": 1500},
            PRIVATE: {"id": PRIVATE, "name": "private", "mtu": 1450},
            SHARED: {"id": SHARED, "name": "shared", "mtu": 9000},
        },
        subnets={
            one["id"]: one
            for one in (
                subnet(EXT4, EXTERNAL, "172.24.4.0/24", "172.24.4.1"),
                subnet(EXT6, EXTERNAL, "2001:db8::/64", "2001:db8::2"),
                subnet(PRIV4, PRIVATE, "10.0.0.0/24", "10.0.0.1", dns_nameservers=["10.0.0.3", "10.0.0.2"],
                       host_routes=[{"destination": "198.51.100.0/24", "nexthop": "10.0.0.8"},
                                    {"destination": "192.0.2.0/25", "nexthop": "10.0.0.8"}]),
                subnet(PRIV6, PRIVATE, "fd00::/64", "fd00::1", ipv6_ra_mode="dhcpv6-stateful",
                       ipv6_address_mode="dhcpv6-stateful"),
                subnet(SHARED4, SHARED, "10.9.0.0/24", "10.9.0.1", enable_dhcp=False),
            )
        },
        floating_ips=[
            {"id": uuid(50), "floating_ip_address": "172.24.4.31", "fixed_ip_address": "10.0.0.5",
             "floating_network_id": EXTERNAL},
            {"id": uuid(51), "floating_ip_address": "172.24.4.30", "fixed_ip_address": "10.0.0.6",
             "floating_network_id": EXTERNAL},
            {"id": uuid(52), "floating_ip_address": "172.24.4.32", "fixed_ip_address": None,
             "floating_network_id": EXTERNAL,
             "port_forwardings": [
                 {"id": uuid(90), "protocol": "tcp", "internal_ip_address": "10.0.0.6", "internal_port": 80,
                  "external_port": 8080},
                 {"id": uuid(91), "protocol": "udp", "internal_ip_address": "10.0.0.6", "internal_port": 53,
                  "external_port": 8080},
             ]},
        ],
        allocations=[
            *interfaces,
            port(60, PRIVATE, "compute:nova", (PRIV4, "10.0.0.5"), (PRIV6, "fd00::5"), device_id=uuid(70),
                 dns_name="web"),
            port(61, PRIVATE, "", (PRIV4, "10.0.0.6"), device_id=""),
            port(62, SHARED, "compute:nova", (SHARED4, "10.9.0.66"), device_id=uuid(71)),
            port(63, PRIVATE, "network:dhcp", (PRIV4, "10.0.0.2")),
            port(64, PRIVATE, "compute:nova", (PRIV4, "10.0.0.77"), description=f"astara:lab:{ROUTER}:0:svc"),
        ],
        labels=[
            {"id": uuid(80), "rules": [
                {"direction": "ingress", "remote_ip_prefix": "10.0.0.0/24", "excluded": False},
                {"direction": "egress", "source_ip_prefix": "10.0.0.0/24", "excluded": False},
                {"direction": "egress", "destination_ip_prefix": "192.0.2.0/24", "excluded": False},
                {"direction": "egress", "remote_ip_prefix": "10.0.0.128/25", "excluded": True},
            ]},
        ],
        read_at=0.0,
    )  # fmt: skip
