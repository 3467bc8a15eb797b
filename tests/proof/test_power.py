"""The power proof itself: a small share of it, and that it fails where it should."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from unittest.mock import patch

from .power.cutting import cut
from .power.damage import cut_logs, flip
from .power.disk import SECTOR, Act, Disk, Op, Platter
from .power.failing import fail_each
from .power.run import BREAKING, GOOD, LOSING, blind
from .power.workload import PoweredStore, run


def images(platter: Platter, last: Op | None = None) -> set[bytes | None]:
    """Contents that `db` has after a cut."""
    return {platter.image(Random(seed), last).get("db") for seed in range(200)}


def test_what_is_synced_stays_and_what_is_not_may() -> None:
    disk = Disk({"db": b"old"})
    disk.write(0, 0, b"new")
    platter = Platter(disk.image)
    platter.apply(disk.log)
    assert images(platter) == {b"old", b"new"}
    disk.sync(0, and_directory=False)
    platter.apply(disk.log[1:])
    assert images(platter) == {b"new"}


def test_a_write_is_torn_between_sectors() -> None:
    disk = Disk({"db": bytes(2 * SECTOR)})
    disk.write(0, 0, b"x" * 2 * SECTOR)
    found = images(Platter(disk.image), disk.log[0])
    assert b"x" * SECTOR + bytes(SECTOR) in found and bytes(SECTOR) + b"x" * SECTOR in found


def test_a_failed_sync_takes_what_was_written_with_it() -> None:
    disk = Disk({"db": b"old"})
    disk.write(0, 0, b"new")
    disk.lose_sync(0)
    disk.sync(0, and_directory=False)
    platter = Platter(disk.image)
    platter.apply(disk.log)
    assert images(platter) == {b"old"}
    assert disk.contents() == {"db": b"new"}  # as the cache has it


def test_a_new_name_stays_when_the_directory_is_synced() -> None:
    disk = Disk()
    file = disk.create("db")
    disk.write(file, 0, b"new")
    disk.sync(file, and_directory=False)
    platter = Platter(disk.image)
    platter.apply(disk.log)
    assert images(platter) == {None, b"new"}
    disk.sync(file, and_directory=True)
    platter.apply(disk.log[-1:])
    assert images(platter) == {b"new"}


def test_a_deletion_without_the_directory_may_come_undone() -> None:
    disk = Disk({"db": b"old"})
    disk.delete("db", and_directory=False)
    platter = Platter(disk.image)
    platter.apply(disk.log)
    assert images(platter) == {None, b"old"}


def test_the_workload_is_the_same_each_time_and_comes_to_all() -> None:
    first, second = PoweredStore(Disk()), PoweredStore(Disk())
    run(first)
    run(second)
    assert first.states == second.states
    assert {op.act for op in first.disk.log} == set(Act) - {Act.LOST_SYNC}
    assert max(len(group) for group in first.groups) > 5
    assert 10 < len(first.states[-1]["log"]) < 20
    for table in ("instance", "history", "outbox", "waiting", "dead", "seen"):
        assert any(rows[table] for rows in first.states), table
        assert any(len(after[table]) < len(before[table]) for before, after in pairwise(first.states)), table


def test_nothing_acknowledged_is_lost() -> None:
    cuts = cut(1, 150, audited=True)
    assert not cuts.wrong
    assert cuts.ahead and cuts.audits and cuts.second


def test_settings_known_to_be_good_and_bad_are_told_apart() -> None:
    assert not any(cut(1, 30, settings).wrong for settings in GOOD.values())
    assert all(cut(1, 30, settings).lost for settings in LOSING.values())
    assert all(cut(1, 30, settings).broken for settings in BREAKING.values())


def test_a_disk_that_fails_loses_nothing() -> None:
    fails = fail_each(1, 0.02)
    assert not fails.wrong
    assert fails.failed and fails.refused and fails.restarts


def test_a_store_that_goes_on_after_a_failed_fsync_is_seen() -> None:
    with patch("orchestrator_adapters.sqlite.store.is_lost_fsync", lambda _error: False):
        assert fail_each(1, 0.4, of="sync").wrong


def test_a_log_that_is_not_written_again_is_seen() -> None:
    with patch.object(PoweredStore, "writes_again", False):
        assert fail_each(1, 0.5, of="sync").wrong


def test_no_flipped_bit_goes_unnoticed() -> None:
    flips = flip(1, 60)
    assert not flips.wrong
    assert flips.refused and flips.same


def test_a_column_without_a_checksum_is_seen() -> None:
    with patch("orchestrator_adapters.sqlite.rows.seal", lambda *_: 0):
        assert flip(1, 240).silent  # about one in forty


def test_a_log_cut_short_is_an_older_store() -> None:
    logs = cut_logs(1, 0.2)
    assert not logs.wrong
    assert logs.older


def test_a_model_gone_blind_is_wrong() -> None:
    with patch("tests.proof.power.disk.SURVIVAL", (1.0,)):  # a disk that forgets nothing; no journal is bad even there
        seen = {name: cut(1, 5, settings) for name, settings in {**GOOD, **LOSING, **BREAKING}.items()}
    assert [each.split()[5] for each in blind(seen)] == [*LOSING, "delete/off"]
