"""The openstack client, started once: what it is told on its input are command lines, as JSON lists.

It answers each with a line of JSON: exit code, output, errors. Starting the client takes longer than most commands. One
process is one account: the client keeps what it learnt of the first.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self


class Client:
    """The client as a child process; `with` ends it."""

    def __init__(self, clouds: Path, cloud: str) -> None:
        environment = {**os.environ, "OS_CLIENT_CONFIG_FILE": str(clouds), "OS_CLOUD": cloud}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def run(self, *words: str) -> tuple[int, str, str]:
        """Exit code, output and errors of one command."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        answer: list[Any] = json.loads(self._process.stdout.readline())
        return answer[0], answer[1], answer[2]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait(10)
        self._process.stdout.close()  # type: ignore[union-attr]


def main() -> None:
    """Run commands until the input ends."""
    from openstackclient.shell import OpenStackShell

    answers = sys.stdout
    for line in sys.stdin:
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            shell = OpenStackShell()
            shell.stdout, shell.stderr = output, errors
            try:
                code = shell.run(json.loads(line))
            except SystemExit as ended:
                code = int(ended.code or 0)
        answers.write(json.dumps([code, output.getvalue(), errors.getvalue()]) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
