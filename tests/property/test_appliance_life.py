"""Any life of an appliance: pushes of former and current owners, failing services, restarts, plugging.

Invariants, after every step: the epoch never falls; a digest that is told stands for exactly what the services run; the
names of interfaces never change.
"""

import asyncio
import json

from astara_appliance.appliance import Appliance, CommitFailed, StaleEpoch
from astara_appliance.backend import Link, RecordingBackend
from astara_appliance.boot import BootData
from astara_appliance.epoch import Epoch
from astara_appliance.services import ALL
from astara_appliance.store import MemoryStore
from astara_appliance.validation import InvalidConfiguration, MalformedJson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

BOOT = BootData.model_validate(
    {
        "version": 1,
        "deployment": "astara",
        "resource_id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0001",
        "instance": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0002",
        "management": {"mac": "fa:00:00:00:00:00", "addresses": ["127.0.0.1/8"]},
    }
)
SERVICES = [service.name for service in ALL]


def network(number, kind, dhcp):
    subnet = {
        "id": f"5b7ff0bd-0d4a-4be8-9a6e-4bb46a2b{number:04x}",
        "cidr": f"10.0.{number}.0/24",
        "dhcp_enabled": dhcp,
    }
    return {
        "network_id": f"5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a{number:04x}",
        "network_type": kind,
        "interface": {"ifname": f"ge{number}", "addresses": [f"10.0.{number}.1/24"]},
        "subnets": [subnet],
    }


WISHES = st.builds(
    lambda kinds, gateway, asn, up: {
        "networks": [network(number, *kind) for number, kind in enumerate(kinds, 1)],
        "default_v4_gateway": gateway,
        "asn": asn,
        "neighbor_asn": asn,
        "admin_state_up": up,
    },
    st.lists(st.tuples(st.sampled_from(["internal", "external"]), st.booleans()), max_size=3),
    st.sampled_from([None, "10.9.9.1"]),
    st.sampled_from([None, 64512]),
    st.booleans(),
)
BODIES = WISHES.map(lambda wish: json.dumps(wish).encode()) | st.sampled_from([b"{", b'{"surprise": 1}', b"[]"])


class Life(RuleBasedStateMachine):
    """One appliance; `wishes` says what each digest stands for."""

    @initialize()
    def boot(self):
        self.store = MemoryStore()
        self.loop = asyncio.new_event_loop()
        self.links = [Link(BOOT.management.mac, 1500)]
        self.wishes = {}
        self.highest = None
        self.names = {}
        self.restart()

    @rule()
    def restart(self):
        self.backend = RecordingBackend(self.links)
        self.appliance = Appliance(BOOT, self.store, self.backend, lambda: 0.0, "1")
        self.loop.run_until_complete(self.appliance.start())

    @rule(
        body=BODIES, epoch=st.tuples(st.integers(0, 3), st.integers(0, 3)), refusing=st.sets(st.sampled_from(SERVICES))
    )
    def push(self, body, epoch, refusing):
        digest = f"v1:{len(self.wishes)}"
        self.wishes[digest] = body
        self.backend.refusing = frozenset(refusing)
        is_stale = self.highest is not None and Epoch(*epoch) < self.highest
        before = self.told()
        try:
            pushed = self.loop.run_until_complete(self.appliance.push(body, digest, Epoch(*epoch)))
        except StaleEpoch:
            assert is_stale
            assert self.told() == before
        except (MalformedJson, InvalidConfiguration, CommitFailed) as refusal:
            assert not is_stale
            self.highest = Epoch(*epoch)
            kept = before["digest"] if getattr(refusal, "restored", True) else None
            assert self.told() == before | {"epoch": str(self.highest), "digest": kept}
        else:
            assert not is_stale
            self.highest = Epoch(*epoch)
            assert not refusing & set(pushed.changed)
            assert self.told()["digest"] == digest
        finally:
            self.backend.refusing = frozenset()

    @rule(number=st.integers(1, 9), plugged=st.booleans())
    def plug(self, number, plugged):
        link = Link(f"fa:00:00:00:00:0{number}", 1500)
        self.links = [other for other in self.links if other != link] + [link] * plugged
        self.backend.replace_links(self.links)
        self.loop.run_until_complete(self.appliance.links_changed())

    def told(self):
        return json.loads(self.appliance.status())

    @invariant()
    def the_epoch_is_the_highest_that_was_seen(self):
        assert self.told()["epoch"] == (None if self.highest is None else str(self.highest))

    @invariant()
    def a_digest_stands_for_what_the_services_run(self):
        digest = self.told()["digest"]
        if digest is not None:
            fresh = Appliance(BOOT, MemoryStore(), RecordingBackend(self.links), lambda: 0.0, "1")
            self.loop.run_until_complete(fresh.start())
            self.loop.run_until_complete(fresh.push(self.wishes[digest], None, None))
            for service in SERVICES:
                assert self.appliance.state(service) == fresh.state(service)

    @invariant()
    def interfaces_keep_their_names(self):
        told = self.told()["interfaces"]
        assert set(told) == {link.mac for link in self.links}
        assert all(self.names.setdefault(mac, name) == name for mac, name in told.items())
        assert len(set(self.names.values())) == len(self.names)

    def teardown(self):
        if hasattr(self, "loop"):
            self.loop.close()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
