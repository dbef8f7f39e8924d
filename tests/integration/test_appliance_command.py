"""`astara-appliance` as a process: what it serves, what survives its death, and the offline check."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys

import pytest
from aiohttp import ClientError, ClientSession
from astara_appliance.__main__ import main

ADDRESS = "127.79.0.1"
BEARER = {"Authorization": "Bearer 5ec4e7"}
NETWORK = {
    "network_id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a1a02",
    "network_type": "internal",
    "interface": {"ifname": "ge1", "addresses": ["10.0.0.1/24"]},
}


@pytest.fixture
def boot_file(tmp_path):
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        port = probe.getsockname()[1]
    facts = {
        "version": 1,
        "deployment": "astara",
        "resource_id": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0001",
        "instance": "5b7ff0bd-0d4a-4be8-9a6e-4bb46a2a0002",
        "management": {"mac": "fa:00:00:00:00:01", "addresses": [f"{ADDRESS}/8"]},
        "api_port": port,
        "token": "5ec4e7",
    }
    path = tmp_path / "appliance.json"
    path.write_text(json.dumps(facts))
    return path


@contextlib.asynccontextmanager
async def running(boot_file):
    """The agent as a process that listens; its URL and the process."""
    port = json.loads(boot_file.read_text())["api_port"]
    command = ["-m", "astara_appliance", "run", "--machine", "recording", "--boot-file", str(boot_file)]
    state = ["--state-dir", str(boot_file.parent / "state")]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, *state, stderr=asyncio.subprocess.PIPE)
    try:
        while b"listening" not in (line := await process.stderr.readline()):
            assert line, "the agent ended"
        yield f"http://{ADDRESS}:{port}", process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.communicate()


async def test_the_agent_listens_on_its_management_address_only(boot_file):
    async with running(boot_file) as (url, process), ClientSession() as session:
        async with session.get(f"{url}/v1/status") as answer:
            assert answer.status == 200
        with pytest.raises(ClientError):
            await session.get(url.replace(ADDRESS, "127.0.0.1") + "/v1/status")
        process.terminate()
        await process.communicate()
        assert process.returncode == 0


async def test_what_was_accepted_survives_a_killed_agent(boot_file):
    marks = {"X-Astara-Digest": "v1:a", "X-Astara-Epoch": "3.17"}
    async with running(boot_file) as (url, process), ClientSession() as session:
        async with session.put(
            f"{url}/v1/system/config", headers=BEARER | marks, json={"networks": [NETWORK]}
        ) as answer:
            assert answer.status == 200
        os.kill(process.pid, signal.SIGKILL)
        await process.communicate()
    async with running(boot_file) as (url, _), ClientSession() as session:
        async with session.get(f"{url}/v1/status") as answer:
            told = await answer.json()
        assert (told["digest"], told["epoch"]) == ("v1:a", "3.17")
        stale = BEARER | {"X-Astara-Epoch": "3.16"}
        async with session.put(f"{url}/v1/system/config", headers=stale, json={}) as answer:
            assert answer.status == 409
        async with session.put(
            f"{url}/v1/system/config", headers=BEARER | marks, json={"networks": [NETWORK]}
        ) as answer:
            assert (await answer.json())["changed"] == []


def test_check_prints_what_it_understood(tmp_path, capsys):
    path = tmp_path / "good.json"
    path.write_text(json.dumps({"configuration": {"networks": [NETWORK]}}))
    assert main(["check", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["networks"][0]["network_id"] == NETWORK["network_id"]


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        ('{"networks": [{"network_id": 5}], "surprise": 1}', 1, ["networks[0].network_id", "surprise"]),
        ('{"networks": [', 1, ["line 1, column 15"]),
        ("[]", 1, ["the document"]),
        (None, 2, ["No such file"]),
    ],
)
def test_check_names_what_is_wrong(tmp_path, capsys, content, code, words):
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_text(content)
    assert main(["check", str(path)]) == code
    told = capsys.readouterr().err
    assert all(word in told for word in words)


def test_run_without_boot_file_says_so(tmp_path, capsys):
    assert main(["run", "--boot-file", str(tmp_path / "none.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err
