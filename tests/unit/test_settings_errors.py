"""Wrong settings are reported by section and option, with what is wanted."""

from pathlib import Path

import pytest

from services.common.claim import ClaimSettings
from services.common.rpc import split_address
from services.common.settings import SettingsError, load
from services.worker.settings import WorkerSettings


def read(folder: Path, text: str, *classes: type) -> None:
    file = folder / "astara.ini"
    file.write_text(text)
    load("test", ["--config-file", str(file)], classes)


def test_a_wrong_choice_names_the_option_and_the_choices(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as raised:
        read(tmp_path, "[claim]\nclaim = some\n", ClaimSettings)
    assert str(raised.value) == "[claim] claim: Valid values are [all, flavor, provider], but found 'some'"


@pytest.mark.parametrize("value", ["many", "0", "1000000"])
def test_a_wrong_number_names_the_option(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingsError, match=r"^\[worker\] max_running: ") as raised:
        read(tmp_path, f"[worker]\nmax_running = {value}\n", WorkerSettings)
    assert "LocationInfo" not in str(raised.value)


def test_a_missing_choice_names_the_three(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"\[claim\] claim must be set \(one of: all, flavor, provider\)"):
        read(tmp_path, "", ClaimSettings)


@pytest.mark.parametrize("address", ["300.1.1.1:44251", "[::zz]:1", "1.2.3:80"])
def test_an_address_that_is_no_address_is_said_to_be_none(address: str) -> None:
    with pytest.raises(SettingsError, match="does not appear to be an IPv4 or IPv6 address"):
        split_address(address)


def test_an_option_that_does_not_exist_is_named_with_the_one_that_is_meant(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^\[worker\] max_runing: there is no such option; is max_running meant\?"):
        read(tmp_path, "[worker]\nmax_runing = 5\n", WorkerSettings)


def test_sections_of_other_services_are_left_to_them(tmp_path: Path) -> None:
    read(tmp_path, "[worker]\nmax_runing = 5\n[claim]\nclaim = all\n", ClaimSettings)
