"""Marks on ports and servers: what tenants may write into a description is read without an error, whatever it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.marks import PortMark, ServerMark

_NUMBERS = st.text("0123456789²³٣०½", min_size=0, max_size=300)
_PARTS = st.sampled_from(["", "astara", "svc", "mgt", "x", "²"]) | _NUMBERS | st.text(max_size=20)


@given(st.lists(_PARTS, max_size=7).map(":".join))
def test_every_description_is_a_mark_or_none(description: str) -> None:
    found = PortMark.parse(description)
    assert found is None or PortMark.parse(found.description()) == found


@given(_PARTS, _PARTS, _PARTS)
def test_all_metadata_of_a_server_is_a_mark_or_none(deployment: str, resource: str, slot: str) -> None:
    told = {"astara_deployment": deployment, "astara_resource": resource, "astara_slot": slot}
    found = ServerMark.parse(told)
    assert found is None or found.slot == int(slot)


@pytest.mark.parametrize("slot", ["²", "٣", "-1", "+1", " 1", "1_0", "", "9" * 200])
def test_a_slot_is_a_plain_number(slot: str) -> None:
    assert PortMark.parse(f"astara:lab:r:{slot}:svc") is None
    told = {"astara_deployment": "lab", "astara_resource": "r"}
    assert ServerMark.parse(told | {"astara_slot": slot}) is None
    assert ServerMark.parse(told | {"astara_slot": "7"}) == ServerMark("lab", "r", 7, "")
