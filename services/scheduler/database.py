"""How the database is reached, and how its schema comes to be what this version needs.

A schema has a revision; each migration says in `oldest_code` which revision a scheduler must know to work on what it
leaves behind. Expand first, contract a release later: a migration that only adds leaves `oldest_code` where it was, so
the version before goes on working, while the migration runs and after a rollback. Replicas that start together migrate
one after the other. A migration that was cut short is run again: MariaDB commits each change of a schema at once, so
each step must bear to find itself done.

SQLite serves one process: the database's lock file is held for as long as its `Database` is open.
"""

import fcntl
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import URL, make_url

from services.common import logging
from services.common.settings import SettingsError

from .tables import compatibility

log = logging.get(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
_CONNECT_SECONDS = 5
_MIGRATE_SECONDS = 300.0
_LOCK_SECONDS = 5
# Errors of MariaDB that say "not now": too many connections, a node of Galera that is out of its cluster, it shuts
# down, it cannot be reached, it is gone.
_AWAY = (1040, 1047, 1053, 1927, 2002, 2003, 2006, 2013)


class DatabaseAwayError(Exception):
    """The database cannot be reached now; it may be back soon."""


class Database:
    """An engine whose database has the schema that this version needs. Make it with `open`, end it with `close`."""

    def __init__(self, url: str, *, patience: float, replicas: int = 1, migrations: Path = MIGRATIONS) -> None:
        """`patience`: seconds that a transaction may stand still, and that one waits for another.

        Raises SettingsError when `url` is none that SQLAlchemy reads, of another kind than SQLite and MariaDB, or
        SQLite with several `replicas`.
        """
        try:
            self._url = make_url(url)
        except sa.exc.ArgumentError as error:
            raise SettingsError(f"[scheduler] database: {error}") from error
        self._sqlite = self._url.get_backend_name() == "sqlite"
        if not self._sqlite and self._url.get_backend_name() not in ("mysql", "mariadb"):
            raise SettingsError(f"[scheduler] database: {self._url.drivername} is neither sqlite nor mysql+pymysql")
        if self._sqlite and replicas > 1:
            raise SettingsError(
                f"[scheduler] database: {self._url.drivername} serves one replica only, and [scheduler] replicas is "
                f"{replicas}: take MariaDB, mysql+pymysql://…, or one replica"
            )
        self._patience = patience
        self._migrations = migrations
        self._lock: int | None = None
        self._engine: sa.Engine | None = None

    @property
    def engine(self) -> sa.Engine:
        """The engine, once it is open."""
        if self._engine is None:
            raise RuntimeError("the database is not open")
        return self._engine

    def open(self) -> None:
        """Connect and migrate; again, when it is open. DatabaseAwayError; SettingsError when it cannot be used."""
        where = self._url.render_as_string(hide_password=True)
        try:
            if self._sqlite:
                self._claim()
            engine = _sqlite_engine(self._url) if self._sqlite else _mariadb_engine(self._url, self._patience)
            self._migrate(engine)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            if isinstance(error, sa.exc.DBAPIError) and _code(error) in _AWAY:
                raise DatabaseAwayError(f"database {where}: {error.orig}") from error
            raise SettingsError(f"[scheduler] database {where} cannot be used: {error}") from error
        former, self._engine = self._engine, engine
        if former is not None:
            former.dispose()

    def close(self) -> None:
        """Disconnect, and let another process have the file."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _claim(self) -> None:
        name = self._url.database
        if self._lock is not None or not name or name == ":memory:":
            return
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A file of its own: SQLite's locks on the database are lost when any descriptor of it is closed.
        lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise SettingsError(
                f"[scheduler] database: another scheduler uses {path}; SQLite serves one replica only, several need "
                "MariaDB: mysql+pymysql://…"
            ) from error
        self._lock = lock

    def _migrate(self, engine: sa.Engine) -> None:
        config = Config()
        config.set_main_option("script_location", str(self._migrations).replace("%", "%%"))
        script = ScriptDirectory.from_config(config)
        head = script.get_current_head()
        # Changing a large table may take longer than a leader's transaction ever may.
        changing = engine if self._sqlite else _mariadb_engine(self._url, None)
        try:
            with changing.begin() as connection, _alone(connection):
                current = MigrationContext.configure(connection).get_current_revision()
                known = {step.revision: step for step in script.walk_revisions()}
                if current is not None and current not in known:
                    _check_newer(connection, current, head or "")
                elif current != head:
                    config.attributes["connection"] = connection
                    command.upgrade(config, "head")
                    oldest = max(step.module.oldest_code for step in known.values())
                    connection.execute(sa.update(compatibility).values(oldest_code=oldest))
                    log.info("the database's schema was brought up to date", before=current or "", now=head)
        finally:
            if changing is not engine:
                changing.dispose()


def _code(error: sa.exc.DBAPIError) -> object:
    return error.orig.args[0] if error.orig is not None and error.orig.args else None


def _check_newer(connection: sa.Connection, current: str, known: str) -> None:
    oldest = connection.execute(sa.select(compatibility.c.oldest_code)).scalar_one()
    if oldest > known:
        raise SettingsError(
            f"[scheduler] database: its schema is at revision {current}, which needs a scheduler that knows revision "
            f"{oldest} or newer; this version ends with {known}: run a newer version, or restore an older database"
        )
    log.warning("the database's schema is newer than this version, and bears it", schema=current, known=known)


@contextmanager
def _alone(connection: sa.Connection) -> Iterator[None]:
    """Nobody else migrates meanwhile. SQLite's transaction is enough: it has begun with the file's write lock."""
    if connection.dialect.name == "sqlite":
        yield
        return
    # The lock's name is the server's, so it contains the database's; at most 64 characters.
    name = sa.func.concat("astara ", sa.func.sha1(sa.func.database()))
    deadline = time.monotonic() + _MIGRATE_SECONDS
    while connection.execute(sa.select(sa.func.get_lock(name, _LOCK_SECONDS))).scalar() != 1:
        if time.monotonic() > deadline:
            raise SettingsError(f"[scheduler] database: another replica has migrated it for {_MIGRATE_SECONDS:.0f} s")
        log.info("waiting for another replica that migrates the database")
    try:
        yield
    finally:
        connection.execute(sa.select(sa.func.release_lock(name)))


def _sqlite_engine(url: URL) -> sa.Engine:
    engine = sa.create_engine(url)

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        # The driver's own idea of when a transaction begins does not cover reads and schema changes.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _mariadb_engine(url: URL, patience: float | None) -> sa.Engine:
    """`patience` as for `Database`; None: statements may take as long as they take."""
    arguments: dict[str, Any] = {"charset": "utf8mb4", "connect_timeout": _CONNECT_SECONDS}
    # What is too long is an error and never cut; the leader's row orders writers, so no gap between rows is locked.
    session = {"sql_mode": "'TRADITIONAL'"}
    if patience is not None:
        seconds = max(1, math.ceil(patience))
        # A server that is silent longer than a leadership lasts is as good as gone.
        arguments |= {"read_timeout": 2 * seconds, "write_timeout": 2 * seconds}
        # A leader that stops within a transaction must not keep the next one from the row.
        session |= {"innodb_lock_wait_timeout": str(seconds), "idle_transaction_timeout": str(seconds)}
    engine = sa.create_engine(
        url, pool_size=1, max_overflow=0, pool_pre_ping=True, pool_recycle=3600, isolation_level="READ COMMITTED",
        connect_args=arguments,
    )  # fmt: skip

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        wanted = dict(session)
        if "mariadb" not in connection.get_server_info().lower():
            wanted.pop("idle_transaction_timeout", None)
        with connection.cursor() as cursor:
            cursor.execute("SET " + ", ".join(f"SESSION {name} = {value}" for name, value in wanted.items()))

    return engine
