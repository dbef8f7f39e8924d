"""`python -m lab up|down|demo|supervise|node|programs`: what the Makefile's targets call."""

import argparse
import asyncio
import os
import sys

from rich.console import Console

from lab import demo, node, packages
from lab.layout import MARK, Layout
from lab.supervise import supervise
from lab.up import LabError, down, ready_for_demo, up


def main() -> int:
    """Run one command; answers with the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lab", description="The whole system on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    starting = commands.add_parser("up", help="bring it up in the background")
    starting.add_argument(
        "--broker", choices=("auto", "rabbitmq", "embedded"), default="auto",
        help="auto: RabbitMQ where it is installed or can be, else the lab's own",
    )  # fmt: skip
    starting.add_argument(
        "--servers", choices=("auto", "namespaces", "processes"), default="auto",
        help="what a server is: a machine made of namespaces, through which packets flow (needs root), or for an "
        "appliance an agent in the simulated cloud, else nothing; auto: machines where they can be made",
    )  # fmt: skip
    commands.add_parser("down", help="end it and remove everything it made")
    commands.add_parser("demo", help="show packets of a tenant through its router; brings the lab up when it is not")
    commands.add_parser("supervise", help="run in the foreground what a plan says; `up` calls this")
    commands.add_parser("node", help="run the lab's RabbitMQ node in the foreground; `supervise` calls this")
    commands.add_parser(
        "programs", help="install what tests need from the distribution, where it is missing and we may"
    )
    arguments = parser.parse_args()
    layout = Layout.default()
    console = Console()
    try:
        if arguments.command == "up":
            # Not ours yet: the mark is for the processes that `up` starts.
            os.environ.pop(MARK, None)
            up(layout, console, broker=arguments.broker, servers=arguments.servers)
        elif arguments.command == "down":
            down(layout, console)
        elif arguments.command == "demo":
            os.environ.pop(MARK, None)
            demo.run(layout, console, ready_for_demo(layout, console))
        elif arguments.command == "programs":
            missing = packages.ensure_test_programs()
            missing += [] if packages.ensure_rabbitmq() else ["rabbitmq-server"]
            console.print(f"missing here: {', '.join(missing)}" if missing else "All programs are installed.")
        elif arguments.command == "node":
            return node.run(layout)
        else:
            asyncio.run(supervise(layout))
    except LabError as error:
        what = {"up": "The lab did not come up", "demo": "There is nothing to show"}
        console.print(f"[bold red]{what.get(arguments.command, 'That did not work')}:[/]")
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 1
    except demo.DemoError as error:
        console.print(f"[bold red]That did not happen:[/] {error}", highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
