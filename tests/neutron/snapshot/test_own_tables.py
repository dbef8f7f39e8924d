"""The plugin's migrations, and what two transactions at once may see of the log, in SQLite and in a real MariaDB."""

import datetime as dt
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from astara_neutron import log
from astara_neutron.db import models
from astara_neutron.db.migration.alembic_migrations import VERSION_TABLE
from mariadb_running import MISSING, MariaDb, installed, private_mariadb
from oslo_config import cfg
from sqlalchemy import orm

_TABLES = {"astara_changes", "astara_router_statuses"}


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDb]:
    assert installed(), MISSING
    with private_mariadb() as server:
        yield server


def migrated(url: str, folder: Path, *command: str, ends: int = 0) -> str:
    """neutron-db-manage, as an operator runs it."""
    (folder / "neutron.conf").write_text(f"[database]\nconnection = {url}\n[oslo_concurrency]\nlock_path = {folder}\n")
    program = Path(sys.executable).with_name("neutron-db-manage")
    call = [program, "--config-file", folder / "neutron.conf", "--subproject", "astara-neutron", *command]
    done = subprocess.run(call, check=False, capture_output=True, text=True, timeout=120, env=os.environ, cwd=folder)
    assert done.returncode == ends, done.stdout + done.stderr
    return done.stdout + done.stderr


def prepared(url: str, folder: Path) -> sa.Engine:
    """A database with the plugin's tables beside that of Neutron which they refer to."""
    made = sa.create_engine(url)
    with made.begin() as connection:
        connection.execute(sa.text("CREATE TABLE routers (id VARCHAR(36) NOT NULL PRIMARY KEY)"))
    migrated(url, folder, "upgrade", "heads")
    return made


@pytest.fixture(scope="module", params=["sqlite", "mariadb"])
def migrated_engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.Engine]:
    folder = tmp_path_factory.mktemp("neutron")
    url = f"sqlite:///{folder}/neutron.db"
    if request.param == "mariadb":
        server: MariaDb = request.getfixturevalue("mariadb")
        url = server.new_database()
    made = prepared(url, folder)
    yield made
    made.dispose()


@pytest.fixture
def engine(migrated_engine: sa.Engine) -> Iterator[sa.Engine]:
    yield migrated_engine
    with migrated_engine.begin() as connection:
        connection.execute(sa.delete(models.Change).where(models.Change.id > 1))


@pytest.fixture
def concurrent(mariadb: MariaDb, tmp_path: Path) -> Iterator[sa.Engine]:
    """SQLite has one writer at a time; MariaDB has many."""
    made = prepared(mariadb.new_database(), tmp_path)
    yield made
    made.dispose()


def test_upgrade_makes_the_tables_of_the_models_and_may_be_repeated(engine: sa.Engine, tmp_path: Path) -> None:
    url = engine.url.render_as_string(hide_password=False)
    migrated(url, tmp_path, "upgrade", "heads")
    current = migrated(url, tmp_path, "current")
    assert "a5a7a0000001" in current
    assert "c5a7a0000001" in current
    assert "not contain HEAD" not in migrated(url, tmp_path, "check_migration")
    tables = sa.inspect(engine).get_table_names()
    assert set(tables) >= {*_TABLES, VERSION_TABLE}

    wanted = sa.MetaData()
    sa.Table("routers", wanted, sa.Column("id", sa.String(36), primary_key=True))
    for name in _TABLES:
        models.Change.metadata.tables[name].to_metadata(wanted)

    def ours(_object: object, name: str, kind: str, *_rest: object) -> bool:
        return kind != "table" or name in _TABLES

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": ours, "compare_type": True})
        assert compare_metadata(context, wanted) == []


def test_upgrades_in_phases_are_understood_since_neutron_asks_all_subprojects(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/neutron.db"
    with sa.create_engine(url).begin() as connection:
        connection.execute(sa.text("CREATE TABLE routers (id VARCHAR(36) NOT NULL PRIMARY KEY)"))
    migrated(url, tmp_path, "upgrade", "--expand")
    assert set(sa.inspect(sa.create_engine(url)).get_table_names()) >= _TABLES
    assert "Need to apply" in migrated(url, tmp_path, "has_offline_migrations", ends=1)
    migrated(url, tmp_path, "upgrade", "--contract")
    migrated(url, tmp_path, "has_offline_migrations")


def test_the_log_begins_with_an_entry_so_that_its_first_revision_is_known(engine: sa.Engine) -> None:
    with orm.Session(engine) as session:
        assert log.latest(session) == 1
        for burnt in range(3):
            written(session, f"never{burnt}")
        session.execute(sa.delete(models.Change).where(models.Change.id > 1))
        written(session, "first")
        assert sorted(names(session, 0)) == ["", "first"]
        assert names(session, 1) == ["first"]
        session.rollback()


def test_a_status_goes_with_its_router(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.execute(sa.text("PRAGMA foreign_keys=ON"))
        connection.execute(sa.text("INSERT INTO routers VALUES ('r')"))
        connection.execute(sa.text("INSERT INTO astara_router_statuses (router_id, reason) VALUES ('r', 'no host')"))
        connection.execute(sa.text("DELETE FROM routers"))
        assert connection.execute(sa.text("SELECT count(*) FROM astara_router_statuses")).scalar() == 0


def written(session: orm.Session, name: str, age: float = 0.0) -> int:
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None) - dt.timedelta(seconds=age)
    session.execute(sa.insert(models.Change.__table__), [{"kind": "router", "object_id": name, "created_at": now}])
    return int(session.execute(sa.select(sa.func.max(models.Change.id))).scalar() or 0)


def names(session: orm.Session, told: int) -> list[str]:
    return [entry.touched.object_id for entry in log.since(session, told)]


def test_a_change_whose_transaction_ends_last_is_not_missed_though_its_number_is_lower(concurrent: sa.Engine) -> None:
    engine = concurrent
    with orm.Session(engine) as slow, orm.Session(engine) as quick, orm.Session(engine) as reader:
        old = written(quick, "old", age=3600)
        quick.commit()
        first = written(slow, "slow")
        second = written(quick, "quick")
        assert first < second
        quick.commit()
        told = log.revision(reader)
        assert told == old
        assert names(reader, told) == ["quick"]
        reader.commit()
        slow.commit()
        assert sorted(names(reader, told)) == ["quick", "slow"]


def test_what_was_told_before_a_change_lists_it_whatever_its_number(engine: sa.Engine) -> None:
    with orm.Session(engine) as session:
        last = 0
        for number in range(5):
            last = written(session, f"old{number}", age=3600 - number)
        assert log.revision(session) == last
        written(session, "new")
        assert log.revision(session) == last
        assert names(session, last) == ["new"]
        assert log.latest(session) > last
        session.rollback()


def test_each_thing_is_read_once_with_its_newest_number(engine: sa.Engine) -> None:
    with orm.Session(engine) as session:
        for _ in range(3):
            newest = written(session, "one")
        (entry,) = log.since(session, 1)
        assert (entry.id, entry.touched.deleted) == (newest, False)
        session.rollback()


def test_the_reads_of_the_log_use_its_indexes(concurrent: sa.Engine) -> None:
    engine = concurrent
    asked: list[tuple[str, object]] = []
    with orm.Session(engine) as session:
        now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
        rows = [
            {"kind": "router", "object_id": f"r{n}", "created_at": now - dt.timedelta(seconds=5000 - n)}
            for n in range(5000)
        ]
        session.execute(sa.insert(models.Change.__table__), rows)
        session.commit()
        sa.event.listen(engine, "before_cursor_execute", lambda _c, _u, text, values, *_: asked.append((text, values)))
        told = log.revision(session)
        assert cfg.CONF.astara.change_margin == 60
        assert 0 <= len(names(session, told)) <= 120
        session.commit()
        read = asked[:]
        for text, values in read:
            plan = session.connection().exec_driver_sql(f"EXPLAIN {text}", values).mappings().one()
            assert plan["type"] != "ALL", text
            assert "filesort" not in (plan["Extra"] or "") or "GROUP BY" in text, (text, dict(plan))
