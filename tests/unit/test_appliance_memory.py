"""What the appliance remembers: boot facts, its state file, the names of its interfaces."""

import json
import stat

import pytest
from astara_appliance.backend import Link
from astara_appliance.boot import BootError, read_boot_file
from astara_appliance.epoch import Epoch, parse_epoch
from astara_appliance.interfaces import InterfaceNames
from astara_appliance.machine import links
from astara_appliance.store import FileStore, Remembered

BOOT = {
    "version": 1,
    "deployment": "astara",
    "resource_id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0001",
    "resource_kind": "router",
    "slot": 0,
    "tenant_id": "a8f4ad2ab5b24a0cb6c9a5ea8c1e9a3f",
    "instance": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0002",
    "management": {
        "mac": "fa:00:00:00:00:01",
        "addresses": ["fdca:3ba5:a17a:acda::5/64"],
        "mtu": 1500,
        "gateway": None,
    },
    "orchestrator": {"addresses": ["fdca:3ba5:a17a:acda::1"], "metadata_port": 9697, "api_port": 44250},
    "api_port": 5000,
    "token": "5ec4e7",
}


def test_the_boot_file_is_read(tmp_path):
    path = tmp_path / "appliance.json"
    path.write_text(json.dumps(BOOT | {"of_a_younger_orchestrator": True}))
    boot = read_boot_file(path)
    assert boot.listen_addresses == ("fdca:3ba5:a17a:acda::5",)
    assert boot.token == "5ec4e7"
    assert "5ec4e7" not in repr(boot)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"management": {"mac": "nonsense", "addresses": []}}, ["management.mac", "management.addresses"]),
        ({"version": 2}, ["version"]),
        ({"api_port": 70000}, ["api_port"]),
        ({"deployment": "Not Allowed"}, ["deployment"]),
    ],
)
def test_a_wrong_boot_file_is_refused_without_telling_its_token(tmp_path, change, names):
    path = tmp_path / "appliance.json"
    path.write_text(json.dumps(BOOT | change))
    with pytest.raises(BootError) as caught:
        read_boot_file(path)
    assert all(name in str(caught.value) for name in names)
    assert "5ec4e7" not in str(caught.value)


def test_a_missing_boot_file_is_said(tmp_path):
    with pytest.raises(BootError, match="cannot be read"):
        read_boot_file(tmp_path / "appliance.json")


async def test_what_was_saved_is_loaded(tmp_path):
    facts = Remembered(b'{"hostname": "r"}', "v1:abc", Epoch(3, 17), {"fa:00:00:00:00:01": "ge0"})
    await FileStore(tmp_path / "new").save(facts)
    assert FileStore(tmp_path / "new").load() == facts
    assert stat.S_IMODE((tmp_path / "new" / "state.json").stat().st_mode) == 0o600


async def test_a_save_that_fails_leaves_the_former_state(tmp_path):
    store = FileStore(tmp_path)
    await store.save(Remembered(digest="v1:former"))
    # A directory in its place makes the file that is written beside impossible, for root too.
    (tmp_path / "state.json.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        await store.save(Remembered(digest="v1:new"))
    assert store.load().digest == "v1:former"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "configuration": null}'])
def test_a_broken_state_file_is_put_aside_and_nothing_is_remembered(tmp_path, content):
    (tmp_path / "state.json").write_text(content)
    assert FileStore(tmp_path).load() == Remembered()
    assert (tmp_path / "state.json.broken").read_text() == content


def test_interfaces_are_named_in_the_order_in_which_they_are_seen_and_keep_their_names():
    names = InterfaceNames("fa:00:00:00:00:01", {})
    names.see([Link("fa:00:00:00:00:02", 1500), Link("fa:00:00:00:00:01", 1500), Link("fa:00:00:00:00:03", 1500)])
    names.see([Link("fa:00:00:00:00:03", 1500), Link("fa:00:00:00:00:04", 1500)])
    again = InterfaceNames("fa:00:00:00:00:01", names.names)
    again.see([Link("fa:00:00:00:00:05", 1500), Link("fa:00:00:00:00:02", 1500)])
    assert again.names == {
        "fa:00:00:00:00:01": "ge0",
        "fa:00:00:00:00:02": "ge1",
        "fa:00:00:00:00:03": "ge2",
        "fa:00:00:00:00:04": "ge3",
        "fa:00:00:00:00:05": "ge4",
    }


@pytest.mark.parametrize("text", ["", "1", "1.", ".1", "1.2.3", "-1.2", "1.²", " 1.2", "1" * 30 + ".1"])
def test_an_epoch_in_another_form_is_refused(text):
    with pytest.raises(ValueError, match="term"):
        parse_epoch(text)


def test_epochs_are_compared_as_numbers():
    assert parse_epoch("10.2") > parse_epoch("9.11")
    assert parse_epoch("3.10") > parse_epoch("3.9")


def test_the_machines_ethernet_interfaces_are_read_from_sysfs_in_the_order_of_their_indexes(tmp_path):
    for name, kind, index, mac in (
        ("lo", 772, 1, "00:00:00:00:00:00"),
        ("eth9", 1, 2, "fa:00:00:00:00:01"),
        ("eth1", 1, 10, "fa:00:00:00:00:02"),
        ("eth1.5", 1, 11, "fa:00:00:00:00:02"),
    ):
        entry = tmp_path / name
        entry.mkdir()
        for fact, value in (("type", kind), ("ifindex", index), ("address", mac), ("mtu", 1450)):
            (entry / fact).write_text(f"{value}\n")
    (tmp_path / "vanished").mkdir()
    assert links(tmp_path) == [Link("fa:00:00:00:00:01", 1450), Link("fa:00:00:00:00:02", 1450)]
