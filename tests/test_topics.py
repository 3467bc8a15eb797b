"""What an app needs of a broker, by its classes and settings."""

from __future__ import annotations

from orchestrator.topics import Topics, TopicSettings
from tests.runtime.shop import World, send_mail, shop


def test_a_worker_is_never_of_the_group_of_the_sagas_daemon() -> None:
    """Both read the same settings, and both are to get what they listen to."""
    app = shop(World(), listeners=[send_mail])
    for settings in (TopicSettings(), TopicSettings(group="eu")):
        groups = {Topics(each, settings).topology().group for each in (app.sagas_only(), app.work_only())}
        assert groups == {settings.group or "shop", f"{settings.group or 'shop'}.work"}


def test_each_process_takes_what_it_works_with() -> None:
    app = shop(World(), listeners=[send_mail])
    takes = {
        which: {topic.name: topic.from_start for topic in Topics(each).topology().takes}
        for which, each in (("all", app), ("sagas", app.sagas_only()), ("work", app.work_only()))
    }
    assert takes["sagas"]["replies.shop"] and not takes["sagas"]["OrderPlaced"]
    assert "OrderFulfilled" not in takes["sagas"]
    assert takes["work"]["commands.ReserveStock"]
    assert not any(name.startswith("replies.") for which in ("all", "work") for name in takes[which])
    assert takes["work"].keys() - {"OrderFulfilled"} == {n for n in takes["work"] if n.startswith("commands.")}
