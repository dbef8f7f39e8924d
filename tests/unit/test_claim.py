"""The claim rule: which routers are ours."""

import asyncio
from typing import Any

import pytest

from services.common.claim import Claim, ClaimSettings, load
from services.common.settings import SettingsError


class Answer:
    def __init__(self, body: dict[str, Any]) -> None:
        self._body = body

    def raise_for_status(self) -> None:
        """Always well."""

    def json(self) -> dict[str, Any]:
        return self._body


class Neutron:
    """Stands for the SDK's connection: the two lists that the rule asks for."""

    def __init__(self) -> None:
        self.network = self
        self.flavors: list[dict[str, Any]] = [
            {"id": "ours", "service_profiles": ["p1"]},
            {"id": "theirs", "service_profiles": ["p2"]},
        ]

    def get(self, path: str) -> Answer:
        profiles = [{"id": "p1", "driver": "astara_neutron.provider.Astara"}, {"id": "p2", "driver": "other"}]
        return Answer({"service_profiles": profiles} if path == "/service_profiles" else {"flavors": self.flavors})


async def test_all_means_all() -> None:
    claim = await load(ClaimSettings("all"), None)
    assert claim({"id": "r1"})


async def test_a_flavor_means_its_routers_only() -> None:
    claim = await load(ClaimSettings("flavor", "f1"), None)
    assert claim({"flavor_id": "f1"})
    assert not claim({"flavor_id": "f2"})
    assert not claim({"flavor_id": None})


def test_a_flavor_rule_without_flavor_is_refused() -> None:
    with pytest.raises(SettingsError, match="wants flavor_id"):
        Claim(ClaimSettings("flavor"), None)


async def test_provider_means_flavors_whose_profile_has_our_driver() -> None:
    claim = await load(ClaimSettings("provider"), Neutron())
    assert claim({"flavor_id": "ours"})
    assert not claim({"flavor_id": "theirs"})
    assert not claim({})


async def test_a_flavor_that_appears_later_counts_after_it_was_looked_up() -> None:
    neutron = Neutron()
    claim = await load(ClaimSettings("provider"), neutron)
    neutron.flavors.append({"id": "new", "service_profiles": ["p1"]})
    claim._asked_at = -1000.0
    assert not claim({"flavor_id": "new"})
    assert claim._asking is not None
    await asyncio.wait_for(claim._asking, 10)
    assert claim({"flavor_id": "new"})
