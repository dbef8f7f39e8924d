"""The scheduler's databases: the same behaviour on SQLite and MariaDB; schemas that are older, newer, half made."""

import asyncio
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from astara.resource.v1 import resource_pb2
from astara.scheduler.v1 import work_pb2
from mariadb_running import MariaDb
from patience import until
from scheduler_running import Client, HandWorker, SchedulerProcess

from services.common.settings import SettingsError
from services.scheduler.database import MIGRATIONS, Database, DatabaseAwayError
from services.scheduler.delivery import JournalBatch, MarkRow
from services.scheduler.store import DeposedError, OperationResource, OperationRow, Store
from services.scheduler.tables import metadata

LEASE = 5.0
ADDITIVE = '''"""A column that only a later version knows."""

import sqlalchemy as sa
from alembic import op

revision = "9001"
down_revision = "{head}"
oldest_code = "0001"


def upgrade() -> None:
    op.add_column("history", sa.Column("later", sa.String(20), nullable=False, server_default="x"))
    op.create_table("later", sa.Column("id", sa.Integer, primary_key=True))
'''
CONTRACTING = '''"""What the version before the last still used is taken away."""

from alembic import op

revision = "9002"
down_revision = "9001"
oldest_code = "9001"


def upgrade() -> None:
    op.drop_column("history", "worker")
'''


@pytest.fixture
def opened(database: str) -> Callable[[], Store]:
    """Stores of one database, one after the other."""
    return lambda: Store(Database(database, patience=1.0))


@pytest.fixture
def later(tmp_path: Path) -> Path:
    """The migrations of a later version, which adds something."""
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    head = max(path.name for path in (folder / "versions").glob("rev_*.py"))[4:8]
    (folder / "versions" / "rev_9001_later.py").write_text(ADDITIVE.format(head=head))
    return folder


def migrate(url: str, folder: Path = MIGRATIONS) -> None:
    database = Database(url, patience=1.0, migrations=folder)
    database.open()
    database.close()


def tables_of(url: str) -> sa.Inspector:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    return sa.inspect(engine)


def execute(url: str, *statements: str) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


# --- the store on both ---


async def test_everything_that_is_kept_comes_back_as_it_was(opened: Callable[[], Store]) -> None:
    store = opened()
    await store.open()
    now = 1_790_000_000.123456
    first = await store.acquire("one", now=now, ttl=1.0, lease_seconds=0.7)
    assert (first.term, first.granted_before, first.earlier_lease_seconds) == (1_790_000_000, 0, 0.0)
    row = await store.leader()
    assert (row.holder, row.expires) == ("one", now + 1.0)
    reserved = await store.reserve_epochs(100)
    operation = resource_pb2.Operation(operation_id="op", target_id="r1", message="Straße 🚧", total=2)
    operation.created_at.FromNanoseconds(int(now * 1e9))
    # Ids are equal when their bytes are: neither case nor accents are alike.
    names = ["r1", "R1", "ŕ1", "x" * 255]
    resources = {name: OperationResource(name, "t", 1, 2) for name in names}
    flag = resource_pb2.DebugFlag(scope=3, target_id="r1", reason="because", set_by="ann")
    await store.put_operation(
        OperationRow(operation, resources), flags=[(flag, "t")], overrides=dict.fromkeys(names, "image")
    )
    await store.set_deaths({"r1": 1, "R1": 2})
    hints = {number: work_pb2.Hint(resource_id=f"r{number}", image_id="y" * 70_000) for number in (2**40, 7)}
    await store.write_marks(
        JournalBatch([MarkRow(row, hint.resource_id, hint.SerializeToString()) for row, hint in hints.items()], [])
    )
    entry = work_pb2.HistoryEntry(resource_id="r1", at_ms=1_790_000_000_123, text="née")
    await store.add_history([("worker-1", entry)])
    await store.close()
    again = opened()
    await again.open()
    second = await again.acquire("one", now=now, ttl=1.0, lease_seconds=0.5)
    assert (second.term, second.granted_before, second.earlier_lease_seconds) == (first.term + 1, reserved[-1], 0.7)
    kept = await again.load()
    assert [one.operation for one in kept.operations] == [operation]
    assert kept.operations[0].resources == resources
    assert kept.flags == [(flag, "t")]
    assert kept.overrides == dict.fromkeys(names, "image")
    assert kept.deaths == {"r1": 1, "R1": 2}
    assert dict(kept.marks) == hints
    assert kept.next_mark == 2**40 + 1
    assert await again.get_history("r1", 10) == [("worker-1", entry)]
    assert await again.get_history("R1", 10) == []
    await again.close()


async def test_what_was_finished_or_dropped_does_not_come_back(opened: Callable[[], Store]) -> None:
    store = opened()
    await store.open()
    await store.acquire("one", now=1000.0, ttl=1.0, lease_seconds=LEASE)
    operation = resource_pb2.Operation(operation_id="op", target_id="r1")
    operation.created_at.FromNanoseconds(10**9)
    await store.put_operation(
        OperationRow(operation, {"r1": OperationResource("r1", "t", 1, 1)}), overrides={"r1": "image"}
    )
    await store.write_marks(JournalBatch([MarkRow(1, "r1", b""), MarkRow(2, "r1", b"")], []))
    await store.write_marks(JournalBatch([], [1]))
    await store.drop_overrides(["r1"])
    operation.state = resource_pb2.OPERATION_STATE_SUCCEEDED
    await store.update_operations([operation], [("op", "r1", 3)])
    for number in range(5):
        entry = work_pb2.HistoryEntry(resource_id="r1", at_ms=number, text=str(number))
        await store.add_history([("worker", entry)])
    kept = await store.load()
    assert (kept.operations, kept.overrides, [row for row, _ in kept.marks]) == ([], {}, [2])
    assert [one.operation_id for one in await store.list_operations("r1", 10)] == ["op"]
    await store.prune(history_before_ms=1, operations_before=2.0, resources=["r1"], per_resource=2)
    assert [entry.text for _, entry in await store.get_history("r1", 10)] == ["4", "3"]
    assert await store.list_operations("", 10) == []
    await store.close()


async def test_a_row_is_taken_only_from_who_was_seen_there(opened: Callable[[], Store]) -> None:
    store = opened()
    await store.open()
    seen = await store.leader()
    assert await store.acquire("one", now=10.0, ttl=60.0, lease_seconds=LEASE, over=seen) is not None
    assert await store.acquire("two", now=11.0, ttl=60.0, lease_seconds=LEASE, over=seen) is None
    assert await store.acquire("two", now=11.0, ttl=60.0, lease_seconds=LEASE) is None
    assert await store.acquire("two", now=71.0, ttl=60.0, lease_seconds=LEASE) is not None
    await store.close()


# --- two stores on one MariaDB ---


async def test_of_many_that_ask_at_once_one_leads_and_a_deposed_one_writes_nothing(mariadb: MariaDb) -> None:
    url = mariadb.new_database()
    stores = [Store(Database(url, patience=5.0)) for _ in range(6)]
    # All of them migrate at once, and ask for the row at once.
    await asyncio.gather(*(store.open() for store in stores))
    now = time.time()
    terms = await asyncio.gather(
        *(store.acquire(f"s{n}", now=now, ttl=60.0, lease_seconds=LEASE) for n, store in enumerate(stores))
    )
    first = [store for store, term in zip(stores, terms, strict=True) if term is not None]
    assert len(first) == 1
    other = next(store for store in stores if store is not first[0])
    assert await other.acquire("later", now=now + 61, ttl=60.0, lease_seconds=LEASE) is not None
    with pytest.raises(DeposedError):
        await first[0].set_deaths({"r1": 1})
    with pytest.raises(DeposedError):
        await first[0].until_lost()
    assert (await other.load()).deaths == {}
    for store in stores:
        await store.close()


async def test_a_leader_that_stands_still_within_a_transaction_is_rolled_back(mariadb: MariaDb) -> None:
    url = mariadb.new_database()
    one, two = (Store(Database(url, patience=1.0)) for _ in range(2))
    await one.open()
    await two.open()
    now = time.time()
    await one.acquire("one", now=now, ttl=1.0, lease_seconds=LEASE)
    go_on, inside = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def stand_still(connection: sa.Connection) -> None:
        connection.execute(sa.text("INSERT INTO quarantine (resource, deaths) VALUES ('r1', 1)"))
        loop.call_soon_threadsafe(inside.set)
        go_on.wait(60)

    held = asyncio.create_task(one.write(stand_still))
    await inside.wait()

    async def taken() -> bool:
        try:
            return await two.acquire("two", now=now + 2.0, ttl=60.0, lease_seconds=LEASE) is not None
        except sa.exc.OperationalError:
            return False

    await until(taken)
    go_on.set()
    with pytest.raises(sa.exc.OperationalError):
        await held
    assert (await two.load()).deaths == {}
    await one.close()
    await two.close()


async def test_a_connection_that_the_server_closed_between_two_writes_is_made_again(mariadb: MariaDb) -> None:
    url = mariadb.new_database()
    store = Store(Database(url, patience=1.0))
    await store.open()
    await store.acquire("one", now=time.time(), ttl=60.0, lease_seconds=LEASE)
    with mariadb.admin() as admin:
        for number in (
            admin.execute(
                sa.text("SELECT id FROM information_schema.processlist WHERE user = :user"),
                {"user": sa.make_url(url).username},
            )
            .scalars()
            .all()
        ):
            admin.execute(sa.text(f"KILL {number}"))
    await store.set_deaths({"r1": 1})
    assert (await store.load()).deaths == {"r1": 1}
    await store.close()


# --- schemas ---


def test_migrations_make_what_the_tables_say(database: str) -> None:
    migrate(database)
    engine = sa.create_engine(database, poolclass=sa.NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        found = compare_metadata(context, metadata)
    # Comments are for who reads the code.
    assert [
        one for one in found if not (isinstance(one, list) and {part[0] for part in one} == {"modify_comment"})
    ] == []


def test_a_migration_that_was_cut_short_is_finished_at_the_next_start(mariadb: MariaDb) -> None:
    url = mariadb.new_database()
    migrate(url)
    whole = {name: {index["name"] for index in tables_of(url).get_indexes(name)} for name in metadata.tables}
    # MariaDB keeps each change by itself: this is what a process leaves that is killed in between.
    execute(
        url,
        "DROP TABLE alembic_version",
        "DROP TABLE quarantine",
        "DROP TABLE history",
        "DELETE FROM compatibility",
        "ALTER TABLE operation DROP INDEX ix_operation_target",
        "DELETE FROM leader",
    )
    migrate(url)
    assert {name: {index["name"] for index in tables_of(url).get_indexes(name)} for name in metadata.tables} == whole
    execute(url, "UPDATE leader SET term = 5 WHERE id = 1")
    migrate(url)


async def test_a_running_version_survives_a_later_ones_migration_and_starts_again_on_it(
    mariadb: MariaDb, later: Path, tmp_path: Path
) -> None:
    url = mariadb.new_database()
    one = SchedulerProcess(tmp_path / "one", database=url)
    try:
        one.start()
        async with Client(one.address) as client:
            await client.leading()
            worker = await HandWorker(client).connect()
            await worker.until(lambda: len(worker.held) == 1024)
            await asyncio.to_thread(migrate, url, later)
            worker.send(
                status=work_pb2.StatusReport(history=[work_pb2.HistoryEntry(resource_id="r1", at_ms=1, text="on it")])
            )
            execute_until = sa.create_engine(url, poolclass=sa.NullPool)

            def written() -> bool:
                with execute_until.connect() as connection:
                    return list(connection.execute(sa.text("SELECT later FROM history")).scalars()) == ["x"]

            await until(written)
            assert worker.ended is None
            await worker.disconnect()
            # The rollback: this version starts on the later one's schema.
            assert one.end() == 0
            one.start()
            await client.leading()
        assert "newer than this version, and bears it" in (tmp_path / "one" / "scheduler.log").read_text()
    finally:
        one.close()
    # And the later version once more.
    await asyncio.to_thread(migrate, url, later)


def test_a_schema_that_needs_later_code_is_refused_with_both_revisions(database: str, later: Path) -> None:
    migrate(database, later)
    (later / "versions" / "rev_9002_contract.py").write_text(CONTRACTING)
    migrate(database, later)
    with pytest.raises(SettingsError, match=r"at revision 9002, which needs a scheduler that knows revision 9001"):
        migrate(database)


def test_a_database_that_is_away_is_told_from_one_that_refuses(mariadb: MariaDb) -> None:
    url = sa.make_url(mariadb.new_database())
    with pytest.raises(DatabaseAwayError, match="refused"):
        migrate(url.set(port=1).render_as_string(hide_password=False))
    with pytest.raises(SettingsError, match="Access denied") as raised:
        migrate(url.set(password="wrong-one").render_as_string(hide_password=False))
    assert "wrong-one" not in str(raised.value)
    with pytest.raises(SettingsError, match="neither sqlite nor mysql"):
        Database("postgresql://db/astara", patience=1.0)


def test_sqlite_is_refused_to_several_replicas(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"replicas is 2: take MariaDB"):
        Database(f"sqlite:///{tmp_path}/scheduler.db", patience=1.0, replicas=2)


def test_two_processes_of_one_sqlite_file_exclude_each_other(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/scheduler.db"
    one, two = (Database(url, patience=1.0) for _ in range(2))
    one.open()
    with pytest.raises(SettingsError, match="another scheduler uses"):
        two.open()
    one.close()
    two.open()
    two.close()
