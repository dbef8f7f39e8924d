"""A broker's URL as operators write it."""

import pytest

from services.common.amqp import broker_urls
from services.common.settings import SettingsError


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("amqp://u:p@h:5672//", ["amqp://u:p@h:5672//"]),
        ("rabbit://u:p@h:5672/", ["amqp://u:p@h:5672/"]),
        ("amqps://u:p@h/v", ["amqps://u:p@h/v"]),
        ("rabbit://u:p@a:1,u:q@b:2/v", ["amqp://u:p@a:1/v", "amqp://u:q@b:2/v"]),
        ("rabbit://u:p@a:1,[::1]:2", ["amqp://u:p@a:1//", "amqp://u:p@[::1]:2//"]),
    ],
)
def test_each_host_of_a_cluster_becomes_a_url(text: str, urls: list[str]) -> None:
    assert broker_urls(text) == urls


def test_what_is_no_url_is_refused_without_repeating_its_password() -> None:
    with pytest.raises(SettingsError) as refused:
        broker_urls("http://user:hidden@host/")
    assert "hidden" not in str(refused.value)
