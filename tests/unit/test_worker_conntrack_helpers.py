"""Which of a router's conntrack helpers an appliance is told."""

from typing import Any

import pytest

from services.worker.conntrack_helpers import sorted_out


def helper(protocol: str, port: int, name: str) -> dict[str, Any]:
    return {"id": f"{protocol}{port}{name}", "router_id": "r", "protocol": protocol, "port": port, "helper": name}


def told(protocol: str, port: int, name: str) -> dict[str, Any]:
    return {"protocol": protocol, "port": port, "helper": name}


def test_helpers_are_told_in_one_order_whatever_neutrons_is() -> None:
    given = [helper("udp", 69, "tftp"), helper("tcp", 2121, "ftp"), helper("tcp", 21, "ftp")]
    assert sorted_out(given) == sorted_out(given[::-1])
    assert sorted_out(given)[0] == [told("tcp", 21, "ftp"), told("tcp", 2121, "ftp"), told("udp", 69, "tftp")]


@pytest.mark.parametrize(("protocol", "name"), [("dccp", "ftp"), ("tcp", 'x" }'), ("tcp", "a" * 16), ("tcp", "")])
def test_what_no_kernel_can_have_is_left_and_named(protocol: str, name: str) -> None:
    assert sorted_out([helper(protocol, 21, name)]) == ([], [told(protocol, 21, name)])


def test_a_port_has_one_helper() -> None:
    given = [helper("tcp", 21, "irc"), helper("tcp", 21, "ftp"), helper("udp", 21, "sip")]
    assert sorted_out(given) == ([told("tcp", 21, "ftp"), told("udp", 21, "sip")], [told("tcp", 21, "irc")])
