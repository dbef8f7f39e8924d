"""`astara-appliance`: the agent in the VM, and the offline check of a configuration file."""

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from .agent import APPLIANCE, create_app
from .backend import RecordingBackend
from .boot import BootData, BootError, read_boot_file
from .machine import links
from .validation import InvalidConfiguration, MalformedJson, parse_configuration, parse_json

# linux/in.h; Python has no name for it. It lets the agent listen before the address is there (IPv6 addresses are not
# at once), for both families.
_IP_FREEBIND = 15
_LOOK_EVERY = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; answers with the process's exit code."""
    parser = argparse.ArgumentParser(prog="astara-appliance", description="The agent of an Astara service instance.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="serve the REST API on the management addresses")
    run.add_argument("--boot-file", type=Path, default=Path("/etc/astara/appliance.json"))
    run.add_argument("--state-dir", type=Path, default=Path("/var/lib/astara"))
    check = commands.add_parser("check", help="validate a configuration file; exit code 1 when it is wrong")
    check.add_argument("file", type=Path, help="JSON, with or without the configuration wrapper")
    arguments = parser.parse_args(argv)
    if arguments.command == "check":
        return _check(arguments.file)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        boot = read_boot_file(arguments.boot_file)
    except BootError as error:
        sys.stderr.write(f"astara-appliance: {error}\n")
        return 2
    try:
        asyncio.run(_serve(boot, arguments.state_dir))
    except OSError as error:
        sys.stderr.write(f"astara-appliance: {error}\n")
        return 1
    return 0


def _check(path: Path) -> int:
    try:
        configuration = parse_configuration(parse_json(path.read_bytes()))
    except OSError as error:
        sys.stderr.write(f"{path}: {error.strerror}\n")
        return 2
    except MalformedJson as error:
        sys.stderr.write(f"{path}: {error}\n")
        return 1
    except InvalidConfiguration as error:
        for wrong in error.errors:
            sys.stderr.write(f"{path}: {wrong.field or 'the document'}: {wrong.message}\n")
        return 1
    sys.stdout.write(json.dumps(configuration.model_dump(), indent=2) + "\n")
    return 0


async def _serve(boot: BootData, state_dir: Path) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    backend = RecordingBackend(links())
    app = create_app(boot, state_dir, backend)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=5.0)
    await runner.setup()
    watcher = asyncio.create_task(_watch(app, backend))
    try:
        for address in boot.listen_addresses:
            await web.SockSite(runner, _listen(address, boot.api_port)).start()
        logging.getLogger(__name__).info("listening on %s, port %d", ", ".join(boot.listen_addresses), boot.api_port)
        await stop.wait()
    finally:
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
        await runner.cleanup()


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        listener.bind((address, port))
    except OSError:
        listener.close()
        raise
    return listener


async def _watch(app: web.Application, backend: RecordingBackend) -> None:
    """Tell the appliance of interfaces that are plugged and unplugged."""
    while True:
        await asyncio.sleep(_LOOK_EVERY)
        if backend.replace_links(links()):
            await app[APPLIANCE].links_changed()


if __name__ == "__main__":
    sys.exit(main())
