"""Conntrack helpers as the appliance takes them, what it refuses, and what the firewall makes of them."""

from typing import Any

import pytest
from astara_appliance.firewall_text import firewall_text
from astara_appliance.linux.ruleset import Ruleset
from astara_appliance.validation import InvalidConfiguration, parse_configuration

FTP: dict[str, Any] = {"protocol": "tcp", "port": 21, "helper": "ftp"}
SIP: dict[str, Any] = {"protocol": "udp", "port": 5060, "helper": "sip"}


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"protocol": "sctp"}, "protocol"),
        ({"port": 0}, "port"),
        ({"helper": 'ftp" protocol tcp; } } flush ruleset'}, "helper"),
        ({"helper": "-ftp"}, "helper"),
        ({"helper": "ftp\n"}, "helper"),
    ],
)
def test_what_is_no_helper_is_named(more: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        parse_configuration({"conntrack_helpers": [FTP | more]})
    assert [error.field for error in caught.value.errors] == [f"conntrack_helpers[0].{field}"]


def test_a_port_has_one_helper() -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        parse_configuration({"conntrack_helpers": [FTP, FTP | {"helper": "irc"}]})
    assert caught.value.errors == [("conntrack_helpers[1].port", "the same port is given twice")]


def test_ports_of_one_helper_share_a_rule_and_what_goes_away_is_undeclared() -> None:
    before = Ruleset({"helpers": [FTP, FTP | {"port": 2121}]})
    assert 'tcp dport { 21, 2121 } ct helper set "helper_ftp_tcp"' in before.load({})
    after = Ruleset({"helpers": [SIP]})
    assert after.change(before).splitlines() == [
        "flush chain inet astara helpers",
        "delete ct helper inet astara helper_ftp_tcp",
        'add ct helper inet astara helper_sip_udp { type "sip" protocol udp; }',
        'add rule inet astara helpers udp dport { 5060 } ct helper set "helper_sip_udp"',
    ]
    assert after.has_other_rules(before)
    assert after.change(after) == ""


def test_a_kernel_that_lacks_a_helper_is_told_nothing_of_it() -> None:
    asked = {"helpers": [FTP, SIP]}
    assert "sip" not in Ruleset(asked, [("udp", "sip")]).load({})
    # As soon as it has it, it is told, though the wish is the same.
    assert "helper_sip_udp" in Ruleset(asked).change(Ruleset(asked, [("udp", "sip")]))


def test_h323_goes_by_the_kernels_own_names() -> None:
    both = [{"protocol": protocol, "port": 1720, "helper": "h323"} for protocol in ("tcp", "udp")]
    text = Ruleset({"helpers": both}).load({})
    assert 'helper_h323_tcp { type "Q.931" protocol tcp; }' in text
    assert 'helper_h323_udp { type "RAS" protocol udp; }' in text


def test_the_overview_tells_helpers() -> None:
    lines = [" ".join(line.split()) for line in firewall_text({"helpers": [FTP]}).splitlines()]
    assert lines.count("CT tcp -- 0.0.0.0/0 0.0.0.0/0 tcp dpt:21 CT helper ftp") == 1
    assert lines.count("CT tcp -- ::/0 ::/0 tcp dpt:21 CT helper ftp") == 1
