"""A private MariaDB server on loopback, from Debian's package, in a folder of its own and without systemd."""

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from lab.ports import free_port

MISSING = "MariaDB is not installed here: apt-get install mariadb-server"
_PATH = os.environ.get("PATH", "") + ":/usr/sbin"
_START_SECONDS = 60.0


def installed() -> bool:
    """Whether Debian's package is there."""
    return shutil.which("mariadbd", path=_PATH) is not None


class MariaDb:
    """One server. `start` may follow `stop` any number of times."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._user = []
        if os.geteuid() == 0:
            # The server refuses to run as root; its package brings a user.
            mysql = pwd.getpwnam("mysql")
            os.chown(folder, mysql.pw_uid, mysql.pw_gid)
            self._user = ["--user=mysql"]
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()
        install = ["mariadb-install-db", "--no-defaults", *self._user, f"--datadir={folder}/data", "--skip-test-db"]
        install.append("--auth-root-authentication-method=normal")
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL, timeout=_START_SECONDS)

    def start(self) -> None:
        command = [
            shutil.which("mariadbd", path=_PATH) or "mariadbd", "--no-defaults", *self._user,
            f"--datadir={self.folder}/data", f"--socket={self.folder}/socket", f"--pid-file={self.folder}/pid",
            "--bind-address=127.0.0.1", f"--port={self.port}", "--skip-name-resolve", "--performance-schema=OFF",
            "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=16M",
        ]  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(sa.exc.OperationalError), self.admin() as connection:
                connection.execute(sa.text("SELECT 1"))
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "log").read_text()[-2000:])
            time.sleep(0.05)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self, number: int = signal.SIGTERM) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        if number not in (signal.SIGSTOP, signal.SIGCONT):
            self._process.wait(_START_SECONDS)

    @contextlib.contextmanager
    def admin(self) -> Iterator[sa.Connection]:
        """A connection that may do anything and commits each statement."""
        engine = sa.create_engine(
            f"mysql+pymysql://root@127.0.0.1:{self.port}", isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
        )
        with engine.connect() as connection:
            yield connection

    def new_database(self) -> str:
        """The URL of an empty database, for a user that has nothing else."""
        name = f"scheduler{next(self._numbers)}"
        with self.admin() as connection:
            for statement in (
                # The character set of a server that was set up long ago; the tables do not depend on it.
                f"CREATE DATABASE {name} CHARACTER SET latin1",
                f"CREATE USER {name} IDENTIFIED BY 'secret'",
                f"GRANT ALL ON {name}.* TO {name}",
            ):
                connection.execute(sa.text(statement))
        return f"mysql+pymysql://{name}:secret@127.0.0.1:{self.port}/{name}"


@contextlib.contextmanager
def private_mariadb() -> Iterator[MariaDb]:
    """A running server that ends with the block."""
    with tempfile.TemporaryDirectory(prefix="astara-mariadb-") as folder:
        server = MariaDb(Path(folder))
        server.start()
        try:
            yield server
        finally:
            if server.running:
                server.stop(signal.SIGKILL)
