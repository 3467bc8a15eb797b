"""Backups of a SQLite store, and its check."""

import os
import stat
from pathlib import Path

import anyio
import pytest

from orchestrator.errors import ConfigError
from orchestrator.ports import Find
from orchestrator.testing.store_conformance import NOW, after, made, moved, stored
from orchestrator_adapters.sqlite import SQLiteStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_backup_is_a_store_of_one_moment(tmp_path: Path) -> None:
    copies = [tmp_path / f"copy{n}.db" for n in range(5)]

    async def write(store: SQLiteStore) -> None:
        for number in range(1000):
            one = made(str(number))
            await stored(store, moved(one))
            await stored(store, moved(after(one)), moved(made(f"beside {number}")))

    async with SQLiteStore(tmp_path / "shop.db") as store, anyio.create_task_group() as tasks:
        tasks.start_soon(write, store)
        for copy in copies:
            await store.backup(copy)
        tasks.cancel_scope.cancel()
    for copy in copies:
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        async with SQLiteStore(copy) as store:
            assert await store.integrity() == ()
            found = (await store.find(Find(limit=500))).items
            for one in found:
                assert len(await store.history(one.address)) == one.version
            names = {one.key for one in found}
            assert all((one.version == 2) == (f"beside {one.key}" in names) for one in found if one.key.isdigit())
            await stored(store, moved(made("goes on")))


async def test_a_backup_is_one_file(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "shop.db") as store:
        await stored(store, moved(made()))
        (tmp_path / "to").mkdir()
        await store.backup(tmp_path / "to" / "copy.db")
        assert os.listdir(tmp_path / "to") == ["copy.db"]
    async with SQLiteStore(tmp_path / "shop.db", read_only=True) as store:
        await store.backup(tmp_path / "to" / "second.db")
    async with SQLiteStore(tmp_path / "to" / "second.db", read_only=True) as copy:
        assert (await copy.counts(NOW)).instances == {"Order": {"running": 1}}


async def test_a_backup_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    async with SQLiteStore(tmp_path / "shop.db") as store:
        for target in (tmp_path / "precious", tmp_path / "shop.db"):
            with pytest.raises(ConfigError, match="exists already"):
                await store.backup(target)
        with pytest.raises(ConfigError, match="No such file or directory"):
            await store.backup(tmp_path / "none" / "copy.db")
        assert await store.integrity() == ()
    assert (tmp_path / "precious").read_text() == "precious"
