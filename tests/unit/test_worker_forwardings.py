"""Which calls a router's port forwardings cost, and what is believed of the answers."""

from typing import Any

import pytest

from services.worker.errors import CloudError, NotFoundError
from services.worker.neutron import Neutron

SINGLE = {"id": "pf-1", "protocol": "tcp", "internal_port": 80, "external_port": 8080}
RANGE = {"id": "pf-2", "protocol": "tcp"}
DETAIL = {**RANGE, "internal_port_range": "1:2", "external_port_range": "3:4"}


GONE = NotFoundError("network", "GET", 404, "not found")


class Recorded:
    """An API that answers from a table and remembers what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def get(self, path: str, params: Any = ()) -> dict[str, Any]:
        self.asked.append(path)
        name = path.rsplit("/", 1)[-1]
        answer = self.answers["still_there" if ("id", "fip-1") in params else name]
        if isinstance(answer, Exception):
            raise answer
        return {path.rsplit("/", 1)[-1]: answer}


def floating(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"fip-{number}", "fixed_ip_address": None, **more}


async def read(
    extensions: set[str], *floating_ips: dict[str, Any], forwardings: Any = (), still_there: Any = ()
) -> tuple[Any, list[str]]:
    api = Recorded(floatingips=list(floating_ips), port_forwardings=forwardings, still_there=still_there)
    neutron = Neutron(api, "astara")  # type: ignore[arg-type]
    neutron.extensions = frozenset(extensions)
    return await neutron.floating_ips("r1"), api.asked


BOTH = {"floating-ip-port-forwarding", "expose-port-forwarding-in-fip"}


async def test_routers_without_forwardings_cost_no_call_more() -> None:
    mine = floating(1, fixed_ip_address="10.0.0.5", port_forwardings=[])
    for extensions in (set(), BOTH):
        _, asked = await read(extensions, mine)
        assert asked == ["/floatingips"]


async def test_what_is_shown_with_a_floating_ip_is_not_asked_for_again() -> None:
    (found,), asked = await read(BOTH, floating(1, port_forwardings=[SINGLE]))
    assert found["port_forwardings"] == [SINGLE]
    assert asked == ["/floatingips"]


async def test_a_range_is_asked_for_where_it_is_shown_in_full() -> None:
    one, two = floating(1, port_forwardings=[SINGLE]), floating(2, port_forwardings=[SINGLE, RANGE])
    found, asked = await read(BOTH, one, two, forwardings=[SINGLE, DETAIL])
    assert [len(each["port_forwardings"]) for each in found] == [1, 2]
    assert found[1]["port_forwardings"][1] == DETAIL
    assert asked == ["/floatingips", "/floatingips/fip-2/port_forwardings"]


async def test_a_neutron_that_shows_none_is_asked_for_floating_ips_that_no_port_has() -> None:
    mine, shared = floating(1, fixed_ip_address="10.0.0.5"), floating(2)
    found, asked = await read({"floating-ip-port-forwarding"}, mine, shared, forwardings=[SINGLE])
    assert found[1]["port_forwardings"] == [SINGLE]
    assert asked == ["/floatingips", "/floatingips/fip-2/port_forwardings"]
    _, asked = await read(set(), mine, shared)
    assert asked == ["/floatingips"]


async def test_a_floating_ip_that_goes_meanwhile_is_not_the_routers_end() -> None:
    (found,), _ = await read(BOTH, floating(1, port_forwardings=[RANGE]), forwardings=GONE)
    assert found["port_forwardings"] == []
    # One that is still there forwards what it did: the server lacks the plugin.
    with pytest.raises(CloudError) as refused:
        await read(BOTH, floating(1, port_forwardings=[RANGE]), forwardings=GONE, still_there=[{"id": "fip-1"}])
    assert not isinstance(refused.value, NotFoundError)


@pytest.mark.parametrize("shown", [[], None])
async def test_a_floating_ip_without_forwardings_forwards_nothing(shown: Any) -> None:
    (found,), _ = await read(set(), floating(1, port_forwardings=shown))
    assert found["port_forwardings"] == []
