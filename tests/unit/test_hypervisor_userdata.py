"""What a machine reads in user data and in DHCP's classless routes."""

import base64
import json

import pytest

from lab.hypervisor.lease import classless_routes
from lab.hypervisor.machine import Machine
from lab.hypervisor.userdata import BOOT_FILE, File, read_files


def test_files_are_read_from_json_and_from_yaml():
    as_json = json.dumps({"write_files": [{"path": "/etc/a", "permissions": "0600", "content": "x\n"}]})
    as_yaml = 'write_files:\n- path: /etc/a\n  permissions: "0600"\n  content: |\n    x\n'
    for text in (as_json, as_yaml):
        assert read_files(f"#cloud-config\n{text}") == (File("/etc/a", "x\n", 0o600),)


def test_encoded_content_is_decoded():
    entry = {"path": "/etc/a", "encoding": "b64", "content": base64.b64encode(b"hello").decode()}
    assert read_files(f"#cloud-config\n{json.dumps({'write_files': [entry]})}") == (File("/etc/a", "hello", 0o644),)


@pytest.mark.parametrize(
    "user_data", [None, "", "#!/bin/sh\nreboot\n", "#cloud-config\n", "#cloud-config\nusers: []\n"]
)
def test_other_user_data_writes_nothing(user_data: str | None):
    assert read_files(user_data) == ()


@pytest.mark.parametrize(
    "text", ["[", "- a\n", "write_files: 7\n", "write_files: [{content: x}]\n", "write_files: [3]"]
)
def test_user_data_that_is_no_cloud_config_is_refused(text: str):
    with pytest.raises(ValueError, match="cloud-config"):
        read_files(f"#cloud-config\n{text}")


def test_the_boot_file_makes_an_appliance():
    assert Machine("1", "a").kind == "host"
    assert Machine("1", "a", files=(File(BOOT_FILE, "{}"),)).kind == "appliance"


def test_classless_routes_are_read_as_the_standard_writes_them():
    # RFC 3442, "Classless Route Option Format".
    octets = "0 10 0 0 1 8 10 10 0 0 2 24 10 17 5 10 0 0 3 25 10 229 0 128 10 0 0 4 32 10 198 122 47 0 0 0 0"
    assert list(classless_routes(octets)) == [
        ("0.0.0.0/0", "10.0.0.1"),
        ("10.0.0.0/8", "10.0.0.2"),
        ("10.17.5.0/24", "10.0.0.3"),
        ("10.229.0.128/25", "10.0.0.4"),
        ("10.198.122.47/32", "0.0.0.0"),
    ]


def test_classless_routes_that_end_too_early_are_refused():
    with pytest.raises(ValueError, match="too early"):
        list(classless_routes("24 10 17"))
