"""NDP proxies as the appliance takes them, and what its firewall and its overview say."""

import pytest
from astara_appliance.firewall_text import firewall_text
from astara_appliance.linux.ruleset import Ruleset
from astara_appliance.validation import InvalidConfiguration, parse_configuration


@pytest.mark.parametrize("address", ["10.0.0.1", "ff02::1", "::", "fd00::1/64", "fd00::1%ge1", "fd00::1; drop"])
def test_what_no_host_can_have_is_not_published(address: str) -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        parse_configuration({"ndp_proxies": ["fd00::5", address]})
    assert [error.field for error in caught.value.errors] == ["ndp_proxies[1]"]


def test_an_address_is_published_once() -> None:
    with pytest.raises(InvalidConfiguration) as caught:
        parse_configuration({"ndp_proxies": ["fd00::5", "fd00:0::5"]})
    assert caught.value.errors == [("ndp_proxies[1]", "the same address is given twice")]


def test_none_published_is_not_the_same_as_nothing_restricted() -> None:
    assert parse_configuration({}).ndp_proxies is None
    assert parse_configuration({"ndp_proxies": []}).ndp_proxies == []


def test_one_more_published_address_changes_elements_alone() -> None:
    before = Ruleset({"guarded": ["ge1"], "published": ["fd00::5"]})
    after = Ruleset({"guarded": ["ge1"], "published": ["fd00::5", "fd00::6"]})
    assert after.change(before) == "add element inet astara published { fd00::6 }\n"


def test_the_overview_tells_what_is_published() -> None:
    state = {"forward": True, "external": ["ge1"], "internal": ["ge2"], "guarded": ["ge1"], "published": ["fd00::5"]}
    lines = [" ".join(line.split()) for line in firewall_text(state).splitlines()]
    at = lines.index("Chain PUBLISHED (1 references)")
    assert lines[at + 2 : at + 4] == ["RETURN all -- ::/0 fd00::5", "DROP all -- ::/0 ::/0"]
    assert lines.index("PUBLISHED all -- ::/0 ::/0 in ge1 out ge2") < at
    assert "Chain PUBLISHED (1 references)" not in firewall_text(state | {"guarded": []})
