"""`python -m lab.hypervisor`: the service, and an operator's view of the machines. Needs root."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from lab.wires import WireError

from .errors import HypervisorError
from .hypervisor import Hypervisor
from .service import Service


def main() -> int:
    """Run one command; answers with the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lab.hypervisor", description="Machines made of namespaces.")
    parser.add_argument("--root", type=Path, required=True, help="folder in which the machines live")
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve", help="answer on a Unix socket; the machines outlive the service")
    serving.add_argument("--socket", type=Path, help="default: `socket` in the folder")
    serving.add_argument("--prefix", help="what the names of namespaces begin with; a random one by default")
    commands.add_parser("list", help="show the machines")
    for name, words in (
        ("console", "print what a machine wrote on its console"),
        ("reboot", "shut a machine down and start it again"),
        ("kill", "let a machine crash"),
        ("destroy", "end a machine and remove its disk"),
    ):
        commands.add_parser(name, help=words).add_argument("machine", help="its id, or the beginning of its name")
    running = commands.add_parser("exec", help="run a program in a machine, a shell by default")
    running.add_argument("machine", help="its id, or the beginning of its name")
    running.add_argument("argv", nargs=argparse.REMAINDER)
    commands.add_parser("close", help="destroy everything, and the folder")
    arguments = parser.parse_args()
    try:
        return _run(arguments)
    except (HypervisorError, WireError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "serve":
        hypervisor = Hypervisor(arguments.root, arguments.prefix)
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        asyncio.run(_serve(hypervisor, arguments.socket or hypervisor.root / "socket"))
        return 0
    hypervisor = Hypervisor(arguments.root, make=False)
    if arguments.command == "list":
        for machine in hypervisor.machines():
            print(f"{machine.id}  {machine.state:8} {machine.kind:10} {machine.name}")
    elif arguments.command == "close":
        hypervisor.close()
    else:
        _act(hypervisor, arguments)
    return 0


def _act(hypervisor: Hypervisor, arguments: argparse.Namespace) -> None:
    machine_id = _named(hypervisor, arguments.machine)
    if arguments.command == "console":
        sys.stdout.write(hypervisor.console(machine_id))
    elif arguments.command == "exec":
        argv = [word for word in arguments.argv if word != "--"] or ["bash"]
        command = hypervisor.inside(machine_id, *argv)
        sys.stdout.flush()
        os.execvp(command[0], command)  # noqa: S606 - no shell is wanted
    else:
        {"reboot": hypervisor.reboot, "kill": hypervisor.kill, "destroy": hypervisor.destroy}[arguments.command](
            machine_id
        )


def _named(hypervisor: Hypervisor, name: str) -> str:
    found = [one.id for one in hypervisor.machines() if one.id == name or one.name.startswith(name)]
    if len(found) != 1:
        raise HypervisorError(f"{len(found)} machines are called {name}")
    return found[0]


async def _serve(hypervisor: Hypervisor, path: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with await Service(hypervisor).listen(path):
        print(f"machines in {hypervisor.root}, namespaces {hypervisor.prefix}-*, questions at {path}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
