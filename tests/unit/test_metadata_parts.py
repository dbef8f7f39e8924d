"""The parts of the metadata service that need no socket."""

import asyncio

import pytest
from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import query_pb2
from hypothesis import given
from hypothesis import strategies as st

from services.common import marks
from services.common.listen import AddressTakenError, bind
from services.common.settings import SettingsError
from services.metadata.cache import Cache
from services.metadata.caller import authenticate
from services.metadata.errors import RefusalError
from services.metadata.resources import view_of
from services.metadata.settings import ApplianceSecretSettings, MetadataSettings, check

KEY = "a key of enough length"


def answering(value, seconds=10.0):
    async def load():
        return value, seconds

    return load


async def failing():
    raise LookupError


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def cache(clock):
    counts = []
    cache = Cache(2, lambda: clock[0], counts.append)
    cache.counts = counts
    return cache


async def test_an_answer_is_kept_for_its_time(cache, clock):
    assert await cache.get("a", answering(1)) == 1
    clock[0] = 9.9
    assert await cache.get("a", answering(2)) == 1
    clock[0] = 10.0
    assert await cache.get("a", answering(3)) == 3
    assert cache.counts == ["asked", "hit", "asked"]


async def test_the_answer_that_was_not_used_for_longest_goes_first(cache):
    for key in ("a", "b"):
        await cache.get(key, answering(key))
    await cache.get("a", failing)
    await cache.get("c", answering("c"))
    assert len(cache) == 2
    assert await cache.get("a", failing) == "a"
    with pytest.raises(LookupError):
        await cache.get("b", failing)


async def test_failures_and_answers_without_time_are_not_kept(cache):
    with pytest.raises(LookupError):
        await cache.get("a", failing)
    assert await cache.get("a", answering(1, 0)) == 1
    assert await cache.get("a", answering(2)) == 2


async def test_one_who_gives_up_does_not_take_the_answer_from_the_others(cache):
    gate = asyncio.Event()

    async def load():
        await gate.wait()
        return 1, 10.0

    first, second = (asyncio.create_task(cache.get("a", load)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    gate.set()
    assert await second == 1
    assert first.cancelled()
    assert cache.counts == ["asked", "joined"]


async def test_what_is_forgotten_is_asked_again(cache):
    await cache.get("a", answering(1))
    cache.forget("a")
    cache.forget("a")
    assert await cache.get("a", answering(2)) == 2


def test_a_proven_caller_is_read_with_its_address_in_canonical_spelling():
    headers = {
        "Authorization": f"bearer {marks.appliance_token(KEY, 'astara', 'r', 1, 'i')}",
        "X-Astara-Deployment": "astara",
        "X-Astara-Resource": "r",
        "X-Astara-Slot": "1",
        "X-Astara-Instance": "i",
        "X-Astara-Network": "n",
        "X-Forwarded-For": "2001:DB8:0::1",
    }
    caller = authenticate(headers, "astara", KEY)
    assert (caller.resource_id, caller.slot, caller.instance_id, caller.network_id) == ("r", 1, "i", "n")
    assert caller.source == "2001:db8::1"


NAMES = ("Authorization", *(f"X-Astara-{name}" for name in ("Deployment", "Resource", "Slot", "Instance", "Network")))


@given(st.fixed_dictionaries({name: st.text() | st.sampled_from(["astara", "Bearer x", "r", "0"]) for name in NAMES}))
def test_whatever_is_shown_without_the_key_is_refused(headers):
    with pytest.raises(RefusalError) as caught:
        authenticate(headers | {"X-Forwarded-For": "10.0.0.5"}, "astara", KEY)
    assert caught.value.status in (400, 403)


def test_only_internal_networks_and_named_instances_count():
    view = view_of(
        query_pb2.GetResourceResponse(
            resource=resource_pb2.Resource(
                instances=[
                    resource_pb2.Instance(slot=0, instance_id="boot-1"),
                    resource_pb2.Instance(slot=1, instance_id=""),
                ],
                attachments=[
                    resource_pb2.Attachment(network_id="inside", role=resource_pb2.ATTACHMENT_ROLE_INTERNAL),
                    resource_pb2.Attachment(network_id="public", role=resource_pb2.ATTACHMENT_ROLE_GATEWAY),
                    resource_pb2.Attachment(network_id="unsaid"),
                ],
            ),
            complete=True,
        )
    )
    assert view.instances == {(0, "boot-1")}
    assert view.networks == {"inside"}
    assert view.complete


@pytest.mark.parametrize(
    ("own", "key", "word"),
    [
        ({"listen": ()}, KEY, "listen"),
        ({"shared_secret": ""}, KEY, "shared_secret"),
        ({}, "short", "16 characters"),
        ({"nova_metadata_url": "127.0.0.1:8775"}, KEY, "nova_metadata_url"),
        ({"nova_metadata_url": "http://127.0.0.1:8775/latest"}, KEY, "nova_metadata_url"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name_and_without_secrets(own, key, word):
    settings = MetadataSettings(**{"shared_secret": "hunter2"} | own)
    with pytest.raises(SettingsError, match=word) as caught:
        check(settings, ApplianceSecretSettings(secret=key))
    assert "hunter2" not in str(caught.value) + repr(settings)
    check(MetadataSettings(shared_secret="s"), ApplianceSecretSettings(secret=KEY))


def test_an_address_that_is_taken_is_named():
    (taken,) = bind("metadata", ["127.0.0.1"], 0)
    with taken, pytest.raises(AddressTakenError, match=r"127\.0\.0\.1 port"):
        bind("metadata", ["127.0.0.1"], taken.getsockname()[1])
