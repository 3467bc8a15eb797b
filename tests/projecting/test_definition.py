"""What a projection class must be, and what it says where it is not."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import pytest

from orchestrator import App, AppError, DefinitionError, Event, Projection, Recorded, project
from orchestrator.projection import shape_of


class Paid(Event):
    cents: int


class Refunded(Event):
    cents: int


class Sums(Projection, version=3):
    tables = "CREATE TABLE sums (cents INTEGER NOT NULL) STRICT; INSERT INTO sums VALUES (0);"

    @project
    def paid(self, event: Paid, at: Recorded) -> None:
        self.db.execute("UPDATE sums SET cents = cents + ?", (event.cents,))

    @project
    def refunded(self, event: Refunded) -> None:
        self.db.execute("UPDATE sums SET cents = cents - ?", (event.cents,))


def test_a_projection_takes_the_events_that_its_handlers_name() -> None:
    shape = shape_of(Sums)
    assert (shape.name, shape.version, sorted(shape.handlers)) == ("Sums", 3, ["Paid", "Refunded"])
    assert [handler.takes_recorded for handler in shape.handlers.values()] == [True, False]
    assert len(shape.statements) == 2


def test_a_projection_can_be_tried_on_any_connection() -> None:
    db = sqlite3.connect(":memory:")
    for statement in shape_of(Sums).statements:
        db.execute(statement)
    sums = Sums(db)
    sums.refunded(Refunded(5))
    assert db.execute("SELECT cents FROM sums").fetchall() == [(-5,)]
    db.close()


def test_a_statement_may_hold_semicolons() -> None:
    class Guarded(Sums):
        tables = """
            CREATE TABLE sums (cents INTEGER NOT NULL, text TEXT DEFAULT ';') STRICT;
            CREATE TRIGGER below AFTER UPDATE ON sums WHEN new.cents < 0
            BEGIN
                UPDATE sums SET cents = 0; SELECT 1;
            END;
        """

    assert len(shape_of(Guarded).statements) == 2


def test_the_digest_is_that_of_the_tables_and_of_the_types() -> None:
    class Same(Sums):
        tables = "CREATE  TABLE sums (cents INTEGER NOT NULL) STRICT;\n INSERT INTO sums VALUES (0)"

    class OtherTables(Sums):
        tables = "CREATE TABLE sums (cents INTEGER NOT NULL, n INTEGER) STRICT"

    class FewerTypes(Projection):
        tables = Sums.tables
        paid = Sums.paid

    digest = shape_of(Sums).digest
    assert shape_of(Same).digest == digest
    assert shape_of(OtherTables).digest != digest
    assert shape_of(FewerTypes).digest != digest


def no_tables() -> type[Projection]:
    class Bare(Projection):
        @project
        def paid(self, event: Paid) -> None: ...

    return Bare


def no_handler() -> None:
    class Idle(Projection):
        tables = Sums.tables


def two_handlers() -> None:
    class Twice(Sums):
        @project
        def again(self, event: Paid) -> None: ...


def bad_sql() -> None:
    class Bad(Sums):
        tables = "CREATE TABEL sums (cents INTEGER)"


def taken_name() -> None:
    class Taken(Sums):
        tables = "CREATE TABLE orchestrator_projection (id INTEGER)"


def async_handler() -> None:
    class Async(Sums):
        @project  # type: ignore[arg-type]
        async def paid(self, event: Paid) -> None: ...


def no_event() -> None:
    class Text(Sums):
        @project  # type: ignore[type-var]
        def paid(self, event: str) -> None: ...


def no_annotation() -> None:
    class Silent(Sums):
        @project
        def paid(self, event) -> None: ...  # type: ignore[no-untyped-def]


def wrong_second() -> None:
    class Second(Sums):
        @project  # type: ignore[arg-type]
        def paid(self, event: Paid, at: float) -> None: ...


def returns() -> None:
    class Answers(Sums):
        @project  # type: ignore[arg-type]
        def paid(self, event: Paid) -> int:
            return 1


def version_zero() -> None:
    class Zero(Sums, version=0):
        tables = Sums.tables


def unknown_name() -> None:
    class Unknown(Sums):
        @project
        def paid(self, event: Nothing) -> None: ...  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("define", "text"),
    [
        (lambda: shape_of(no_tables()), "has no tables"),
        (no_handler, "handles no event"),
        (two_handlers, "two handlers for Paid, paid and again"),
        (bad_sql, "SQLite does not make: .*TABEL"),
        (taken_name, "that name is taken"),
        (async_handler, "write a plain def"),
        (no_event, "an Event class, or a union"),
        (no_annotation, "an Event class, or a union"),
        (wrong_second, "no Recorded"),
        (returns, "-> None"),
        (version_zero, "version=0"),
        (unknown_name, "import it above"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_class_that_cannot_be_right_says_so(define: Callable[[], object], text: str) -> None:
    with pytest.raises(DefinitionError, match=text):
        define()


def test_an_app_has_each_projection_once() -> None:
    class SUMS(Sums):
        tables = Sums.tables

    assert list(App("bank", projections=[Sums]).projections) == ["Sums"]
    assert list(App("bank", projections=[Sums]).sagas_only().projections) == ["Sums"]
    assert App("bank", projections=[Sums]).work_only().projections == {}
    with pytest.raises(AppError, match="two projections are called SUMS"):
        App("bank", projections=[Sums, SUMS])
    with pytest.raises(AppError, match="is no Projection class"):
        App("bank", projections=[Paid])  # type: ignore[list-item]


def test_the_events_of_a_projection_are_among_the_types_of_its_app() -> None:
    class Cents(Event, type="Paid"):
        cents: int

    class Others(Projection):
        tables = Sums.tables

        @project
        def paid(self, event: Cents) -> None: ...

    assert App("bank", projections=[Sums]).types["Paid"] is Paid
    with pytest.raises(AppError, match="have the same wire type Paid"):
        App("bank", projections=[Sums, Others])
