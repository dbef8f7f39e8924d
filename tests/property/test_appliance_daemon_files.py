"""Whatever a user typed, the files of the appliance's daemons keep their lines."""

import pytest
from astara_appliance.backend import BackendError
from astara_appliance.linux import dnsmasq
from astara_appliance.models import DhcpOption
from astara_appliance.services.dhcp_options import usable
from hypothesis import given
from hypothesis import strategies as st

HOSTS = {"domain": "openstacklocal", "subnets": []}


def host(**more: object) -> dict[str, object]:
    return {"mac_address": "fa:16:3e:00:00:05", "hostname": "web", "addresses": [], "names": [], **more}


typed = st.text(max_size=255)


@given(st.lists(st.builds(DhcpOption, opt_name=typed | st.integers(0, 300).map(str), opt_value=typed), max_size=8))
def test_an_extra_option_is_one_line_with_a_number_and_its_value_or_nothing(options: list[DhcpOption]) -> None:
    found = usable(options)
    lines = dnsmasq.options_file({**HOSTS, "hosts": [host(options=found)]}).splitlines()
    assert len(lines) == len(found)
    values = {option.opt_value for option in options}
    for line, (_, number, value) in zip(lines, found, strict=True):
        assert line == f"tag:hostfa163e000005,{number},{value}"
        assert value in values
        assert not set('"\\#\n') & set(line)


@given(typed)
def test_what_is_no_word_stands_in_no_file(text: str) -> None:
    harmless = text.isascii() and all(character.isalnum() or character in "._:/-" for character in text)
    network = {**HOSTS, "hosts": [host(hostname=text, names=["10.0.0.5"], addresses=["10.0.0.5"])]}
    if harmless:
        assert len(dnsmasq.hosts_file(network).splitlines()) == 1
    else:
        for render in (dnsmasq.hosts_file, dnsmasq.names_file):
            with pytest.raises(BackendError):
                render(network)


addresses = st.ip_addresses().map(str)
macs = st.integers(0, 2**16).map(lambda number: f"fa:16:3e:00:{number >> 8 & 255:02x}:{number & 255:02x}")


@given(st.dictionaries(addresses, macs, max_size=20))
def test_owners_are_read_from_a_hosts_file_as_they_were_written(owners: dict[str, str]) -> None:
    hosts = [
        host(mac_address=mac, addresses=[address for address, owner in owners.items() if owner == mac],
             options=[[4, 67, "boot"]])
        for mac in sorted(set(owners.values()))
    ]  # fmt: skip
    network = {**HOSTS, "hosts": hosts}
    assert dnsmasq.owners(network) == owners
    assert dnsmasq.owners_in(dnsmasq.hosts_file(network)) == owners


def test_leases_go_whose_address_has_another_owner_and_no_others() -> None:
    leases = (
        "1795455476 fa:16:3e:00:00:05 10.0.0.5 web *\n"
        "1795455476 fa:16:3e:00:00:06 10.0.0.6 db *\n"
        "duid 00:01:00:01:32:95:e4:f4:3e:12:0a:c2:8d:0a\n"
        "1795376580 261 2001:db8::5 web 00:01\n"
        "1795376580 262 2001:db8::6 db 00:02\n"
    )
    same = {"10.0.0.5": "fa:16:3e:00:00:05", "10.0.0.9": "fa:16:3e:00:00:09"}
    assert dnsmasq.without_leases_of_others(leases, same) == leases
    moved = {"10.0.0.5": "fa:16:3e:00:00:07", "2001:db8::6": "fa:16:3e:00:00:07"}
    kept = dnsmasq.without_leases_of_others(leases, moved).splitlines()
    assert kept == [line for index, line in enumerate(leases.splitlines()) if index in (1, 2, 3)]
