"""`astara-appliance`: the agent in the VM, and the offline check of a configuration file."""

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from .backend import BackendError
from .boot import BootError, read_boot_file
from .certificates import CertificateError
from .offline import judge
from .serve import serve, serve_recording
from .show import show
from .validation import InvalidConfiguration, MalformedJson, parse_configuration, parse_json


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; answers with the process's exit code."""
    parser = argparse.ArgumentParser(prog="astara-appliance", description="The agent of an Astara service instance.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="serve the REST API on the management addresses")
    show_it = commands.add_parser("show", help="print what runs on this machine")
    for command in (run, show_it):
        command.add_argument("--boot-file", type=Path, default=Path("/etc/astara/appliance.json"))
        command.add_argument("--state-dir", type=Path, default=Path("/var/lib/astara"), help="survives a reboot")
        command.add_argument("--runtime-dir", type=Path, default=Path("/run/astara"), help="emptied by a reboot")
    run.add_argument("--tls-dir", type=Path, default=Path("/etc/astara/tls"), help="tls.crt, tls.key and ca.crt")
    run.add_argument("--machine", choices=("linux", "recording"), default="linux", help="recording leaves it alone")
    show_it.add_argument("--json", action="store_true", help="for programs")
    check = commands.add_parser("check", help="validate a configuration file; exit code 1 when it is wrong")
    check.add_argument("file", type=Path, help="JSON, with or without the configuration wrapper")
    arguments = parser.parse_args(argv)
    return {"run": _run, "show": _show, "check": _check}[arguments.command](arguments)


def _run(arguments: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        boot = read_boot_file(arguments.boot_file)
        if arguments.machine == "linux":
            asyncio.run(serve(boot, arguments.state_dir, arguments.runtime_dir, arguments.tls_dir))
        else:
            asyncio.run(serve_recording(boot, arguments.state_dir, arguments.tls_dir))
    except BootError as error:
        return _complain(error, 2)
    except (OSError, BackendError, CertificateError) as error:
        return _complain(error, 1)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    try:
        boot = read_boot_file(arguments.boot_file)
        told = asyncio.run(show(boot, arguments.state_dir, arguments.runtime_dir, as_json=arguments.json))
    except BootError as error:
        return _complain(error, 2)
    except (OSError, BackendError) as error:
        return _complain(error, 1)
    sys.stdout.write(told)
    return 0


def _complain(error: Exception, code: int) -> int:
    sys.stderr.write(f"astara-appliance: {error}\n")
    return code


def _check(arguments: argparse.Namespace) -> int:
    path: Path = arguments.file
    try:
        configuration = judge(parse_configuration(parse_json(path.read_bytes())))
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


if __name__ == "__main__":
    sys.exit(main())
