"""The overview of the firewall says all that its state says."""

from typing import Any

from astara_appliance.firewall_text import firewall_text

STATE: dict[str, Any] = {
    "management": {"addresses": ["fdca::5", "192.0.2.5"], "port": 5000},
    "forward": True,
    "external": ["ge1"],
    "internal": ["ge2", "ge3"],
    "neighbors": ["172.24.4.1", "2001:db8::1"],
    "masks": [{"out": "ge1", "address": "172.24.4.20"}, {"out": "ge2", "address": "172.24.4.20"}],
    "routed": ["10.0.0.0/24"],
    "floating_ips": [
        {"floating_ip": "172.24.4.9", "fixed_ip": "10.0.0.5"},
        {"floating_ip": "172.24.4.8", "fixed_ip": "10.0.0.5"},
    ],
    "port_forwardings": [
        {"floating_ip": "172.24.4.7", "protocol": "udp", "external_ports": [80, 80], "fixed_ip": "10.0.0.6",
         "internal_ports": [8080, 8080]},
        {"floating_ip": "172.24.4.7", "protocol": "tcp", "external_ports": [80, 89], "fixed_ip": "10.0.0.6",
         "internal_ports": [90, 99]},
    ],
    "metadata": [
        {"ifname": "ge2", "destination": "169.254.169.254", "to": "10.0.0.1", "port": 9602},
        {"ifname": "ge2", "destination": "fe80::a9fe:a9fe", "to": "fe80::a9fe:a9fe", "port": 9602},
    ],
    "labels": [
        {"name": "a", "direction": "ingress", "prefixes": ["198.51.100.0/24", "2001:db8::/32"]},
        {"name": "b", "direction": "egress", "prefixes": ["0.0.0.0/0"]},
    ],
}  # fmt: skip

V4 = """
Chain INPUT (policy DROP)
ACCEPT all -- 0.0.0.0/0 0.0.0.0/0 in lo
DROP all -- 0.0.0.0/0 192.0.2.5 in !ge0
ACCEPT all -- 0.0.0.0/0 0.0.0.0/0 state RELATED,ESTABLISHED
DROP all -- 0.0.0.0/0 0.0.0.0/0 state INVALID
ACCEPT tcp -- 0.0.0.0/0 0.0.0.0/0 in ge0 tcp dpt:22
ACCEPT tcp -- 0.0.0.0/0 0.0.0.0/0 in ge0 tcp dpt:5000
ACCEPT icmp -- 0.0.0.0/0 0.0.0.0/0 in ge0
ACCEPT udp -- 0.0.0.0/0 0.0.0.0/0 in ge2 udp dpt:67
DROP all -- 0.0.0.0/0 0.0.0.0/0 in ge2 route-back ge0
ACCEPT icmp -- 0.0.0.0/0 0.0.0.0/0 in ge2 icmptype 8
ACCEPT udp -- 0.0.0.0/0 0.0.0.0/0 in ge2 udp dpt:53
ACCEPT tcp -- 0.0.0.0/0 0.0.0.0/0 in ge2 tcp dpt:53
ACCEPT tcp -- 0.0.0.0/0 0.0.0.0/0 in ge2 ctorigdst 169.254.169.254 ctorigdstport 80
ACCEPT udp -- 0.0.0.0/0 0.0.0.0/0 in ge3 udp dpt:67
DROP all -- 0.0.0.0/0 0.0.0.0/0 in ge3 route-back ge0
ACCEPT icmp -- 0.0.0.0/0 0.0.0.0/0 in ge3 icmptype 8
ACCEPT udp -- 0.0.0.0/0 0.0.0.0/0 in ge3 udp dpt:53
ACCEPT tcp -- 0.0.0.0/0 0.0.0.0/0 in ge3 tcp dpt:53
ACCEPT icmp -- 0.0.0.0/0 0.0.0.0/0 in ge1 icmptype 8
ACCEPT tcp -- 172.24.4.1 0.0.0.0/0 in ge1 tcp dpt:179
Chain FORWARD (policy DROP)
DROP all -- 0.0.0.0/0 0.0.0.0/0 in !ge2,ge3,ge1
DROP all -- 0.0.0.0/0 0.0.0.0/0 out !ge2,ge3,ge1
DROP all -- 0.0.0.0/0 0.0.0.0/0 out ge1 state INVALID
TCPMSS tcp -- 0.0.0.0/0 0.0.0.0/0 tcp flags:0x06/0x02 TCPMSS clamp to PMTU
ACCEPT all -- 0.0.0.0/0 0.0.0.0/0 state RELATED,ESTABLISHED
ACCEPT all -- 0.0.0.0/0 0.0.0.0/0 in ge2
ACCEPT all -- 0.0.0.0/0 0.0.0.0/0 in ge3
ACCEPT all -- 0.0.0.0/0 0.0.0.0/0 in ge1 out ge2,ge3 ctstate DNAT
ACCEPT all -- 0.0.0.0/0 10.0.0.0/24 in ge1 out ge2,ge3
Chain OUTPUT (policy ACCEPT)
DROP icmp -- 0.0.0.0/0 0.0.0.0/0 icmptype 5
Chain LABELS (policy ACCEPT)
COUNT all -- 198.51.100.0/24 0.0.0.0/0 in ge1 /* a */
COUNT all -- 0.0.0.0/0 0.0.0.0/0 out ge1 /* b */
Chain PREROUTING (policy ACCEPT)
DNAT tcp -- 0.0.0.0/0 169.254.169.254 in ge2 tcp dpt:80 to:10.0.0.1:9602
INWARD all -- 0.0.0.0/0 0.0.0.0/0 in ge2
INWARD all -- 0.0.0.0/0 0.0.0.0/0 in ge3
INWARD all -- 0.0.0.0/0 0.0.0.0/0 in ge1
Chain INWARD (3 references)
DNAT udp -- 0.0.0.0/0 172.24.4.7 udp dpt:80 to:10.0.0.6:8080
DNAT tcp -- 0.0.0.0/0 172.24.4.7 tcp dpts:80:89 to:10.0.0.6:90-99
DNAT all -- 0.0.0.0/0 172.24.4.9 to:10.0.0.5
DNAT all -- 0.0.0.0/0 172.24.4.8 to:10.0.0.5
Chain POSTROUTING (policy ACCEPT)
OUTWARD all -- 0.0.0.0/0 0.0.0.0/0 in ge2,ge3 out ge1
OUTWARD all -- 0.0.0.0/0 0.0.0.0/0 in ge2,ge3 out ge2,ge3 ctstate DNAT
Chain OUTWARD (2 references)
SNAT all -- 10.0.0.5 0.0.0.0/0 to:172.24.4.9
SNAT all -- 0.0.0.0/0 0.0.0.0/0 out ge1 to:172.24.4.20
SNAT all -- 0.0.0.0/0 0.0.0.0/0 out ge2 to:172.24.4.20
"""

V6 = """
DROP all -- ::/0 fdca::5 in !ge0
ACCEPT udp -- ::/0 ::/0 in ge2 udp dpt:547
ACCEPT ipv6-icmp -- ::/0 ::/0 in ge2 ipv6-icmptype 133
ACCEPT tcp -- ::/0 ::/0 in ge2 ctorigdst fe80::a9fe:a9fe ctorigdstport 80
ACCEPT ipv6-icmp -- ::/0 ::/0 in ge1 ipv6-icmptype 134
ACCEPT tcp -- 2001:db8::1 ::/0 in ge1 tcp dpt:179
ACCEPT all -- ::/0 ::/0 in ge1 out ge2,ge3
COUNT all -- 2001:db8::/32 ::/0 in ge1 /* a */
DNAT tcp -- ::/0 fe80::a9fe:a9fe in ge2 tcp dpt:80 to:[fe80::a9fe:a9fe]:9602
"""


def lines(text: str) -> list[str]:
    found = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in found if line and line != "target prot opt source destination"]


def test_every_rule_and_every_element_is_told_in_the_order_in_which_it_counts() -> None:
    told = lines(firewall_text(STATE))
    assert told[: len(lines(V4))] == lines(V4)
    assert told.count("Chain INPUT (policy DROP)") == 2
    assert [line for line in told if line in set(lines(V6))] == lines(V6)
    # IPv6 is not translated but for metadata.
    assert not [line for line in told if line.startswith(("SNAT", "DNAT")) and "::/0" in line and "a9fe" not in line]


def test_a_router_that_is_switched_off_forwards_nothing() -> None:
    told = lines(firewall_text(STATE | {"forward": False}))
    at = told.index("Chain FORWARD (policy DROP)")
    assert told[at + 1].startswith("Chain OUTPUT")


def test_the_state_before_any_is_told_too() -> None:
    told = lines(firewall_text({}))
    assert told[0] == "Chain INPUT (policy DROP)"
    assert not [line for line in told if "NAT" in line or "dpt:5000" in line]
