"""Settings: who wins, what a path is relative to, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import ConfigError
from orchestrator.config import Limits, WebhookSettings
from orchestrator.operate.settings import load_settings


def write(directory: Path, text: str, name: str = "orchestrator.toml") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(text)
    return path


def test_defaults(tmp_path: Path) -> None:
    settings, origins = load_settings({}, {}, tmp_path)
    assert (settings.app, settings.store, settings.bus, settings.log) == ("", "sqlite:///orchestrator.db", "", "auto")
    assert settings.app_dir == str(tmp_path)
    assert settings.limits == Limits()
    assert set(origins.values()) == {"default"}
    assert {"store", "limits.mailbox", "limits.kept_events", "limits.retention_s"} <= origins.keys()


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    path = write(tmp_path, 'bus = "memory://file"\nlog = "text"\nlevel = "debug"\n[limits]\nmailbox = 7\ngroup = 8\n')
    environ = {"ORCHESTRATOR_BUS": "memory://env", "ORCHESTRATOR_LOG": "json", "ORCHESTRATOR_LIMITS__MAILBOX": "9"}
    settings, origins = load_settings({"bus": "memory://flag", "store": None, "log": ""}, environ, tmp_path)
    assert (settings.bus, origins["bus"]) == ("memory://flag", "--bus")
    assert (settings.log, origins["log"]) == ("json", "ORCHESTRATOR_LOG")
    assert (settings.level, origins["level"]) == ("debug", str(path))
    assert (settings.limits.mailbox, origins["limits.mailbox"]) == (9, "ORCHESTRATOR_LIMITS__MAILBOX")
    assert (settings.limits.group, origins["limits.group"]) == (8, str(path))
    assert origins["limits.visits"] == "default"


def test_the_file_is_found_upwards_and_paths_in_it_are_relative_to_it(tmp_path: Path) -> None:
    path = write(tmp_path, 'store = "sqlite:///data/shop.db"\napp = "shop.py"\n')
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    settings, origins = load_settings({}, {}, below)
    assert settings.store == f"sqlite:///{tmp_path}/data/shop.db"
    assert (settings.app, settings.app_dir, origins["app_dir"]) == ("shop.py", str(tmp_path), str(path))


def test_a_flag_is_relative_to_where_one_stands(tmp_path: Path) -> None:
    write(tmp_path, 'app = "shop.py"\n')
    below = tmp_path / "a"
    below.mkdir()
    settings, _ = load_settings({"app": "other.py", "store": "sqlite:///here.db"}, {}, below)
    assert (settings.app, settings.app_dir, settings.store) == ("other.py", str(below), "sqlite:///here.db")


def test_the_default_store_stands_beside_the_file(tmp_path: Path) -> None:
    write(tmp_path, 'app = "shop.py"\n')
    below = tmp_path / "a"
    below.mkdir()
    assert load_settings({}, {}, below)[0].store == f"sqlite:///{tmp_path}/orchestrator.db"


@pytest.mark.parametrize(
    "store", ["sqlite:////var/lib/shop.db", "memory://", "postgresql://host/shop", "sqlite:///:memory:"]
)
def test_what_is_not_a_relative_path_stays(tmp_path: Path, store: str) -> None:
    write(tmp_path, f'store = "{store}"\n')
    assert load_settings({}, {}, tmp_path)[0].store == store


def test_pyproject_and_which_file_is_nearest(tmp_path: Path) -> None:
    pyproject = write(tmp_path, '[tool.orchestrator]\nbus = "memory://p"\n', "pyproject.toml")
    below = tmp_path / "a"
    write(below, "[tool.other]\n", "pyproject.toml")
    assert load_settings({}, {}, below)[1]["bus"] == str(pyproject)
    nearer = write(tmp_path, 'bus = "memory://o"\n')
    settings, origins = load_settings({}, {}, below)
    assert (settings.bus, origins["bus"]) == ("memory://o", str(nearer))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('stor = "x"', "'stor' in .*orchestrator.toml is not a setting; did you mean 'store'?"),
        ("[limits]\nmailboxes = 3", "'limits.mailboxes' in .* did you mean 'limits.mailbox'?"),
        ("xyzzy = 1", "'xyzzy' in .* is not a setting; there are app, app_dir, store"),
        ("limits = 3", "limits in .* is not a table"),
        ("[limits]\nmailbox = 0", "limits.mailbox = 0 in .*orchestrator.toml: Expected `int` >= 1"),
        ('[limits]\nmailbox = "9"', "limits.mailbox = '9' in .*: Expected `int`, got `str`"),
        ("[limits]\npage = 501", "limits.page = 501 in .*: Expected `int` <= 500"),
        ("[limits]\nretention_s = -1.5", "limits.retention_s = -1.5 in .*: Expected `float` > 0"),
        ('log = "xml"', "log = 'xml' in .*: Invalid enum value 'xml'"),
        ("store = 3", "store = 3 in .*: Expected `str`, got `int`"),
        ("store = ", "orchestrator.toml is not valid TOML: Invalid value"),
    ],
)
def test_a_wrong_file(tmp_path: Path, text: str, said: str) -> None:
    write(tmp_path, text)
    with pytest.raises(ConfigError, match=said):
        load_settings({}, {}, tmp_path)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "orchestrator.toml").write_bytes(b"store = '\xff'")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load_settings({}, {}, tmp_path)


def test_a_wrong_environment(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ORCHESTRATOR_STOER is not a setting; did you mean ORCHESTRATOR_STORE"):
        load_settings({}, {"ORCHESTRATOR_STOER": "x"}, tmp_path)
    with pytest.raises(ConfigError, match=r"limits.mailbox = 'many' in ORCHESTRATOR_LIMITS__MAILBOX: Expected `int`"):
        load_settings({}, {"ORCHESTRATOR_LIMITS__MAILBOX": "many"}, tmp_path)


def test_others_may_use_the_prefix(tmp_path: Path) -> None:
    environ = {
        "ORCHESTRATOR_SERVICE_HOST": "10.0.0.1",
        "ORCHESTRATOR_PORT": "tcp://10.0.0.1:80",
        "ORCHESTRATOR_BUS": "",
    }
    assert set(load_settings({}, environ, tmp_path)[1].values()) == {"default"}


def test_an_unknown_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'storage' in the flags is not a setting; did you mean 'store'"):
        load_settings({"storage": "x"}, {}, tmp_path)


def test_where_webhooks_may_go_and_what_goes_to_the_bus(tmp_path: Path) -> None:
    (tmp_path / "orchestrator.toml").write_text(
        '[topics]\ncore = false\n[webhooks]\nallow = ["10.0.0.0/8"]\nhttp = true\n'
    )
    settings, origins = load_settings({}, {}, tmp_path)
    assert settings.webhooks == WebhookSettings(allow=("10.0.0.0/8",), http=True)
    assert not settings.topics.core and not settings.topics.log
    assert origins["webhooks.http"].endswith("orchestrator.toml")
    environ = {"ORCHESTRATOR_WEBHOOKS__ALLOW": '["::1"]', "ORCHESTRATOR_TOPICS__CORE": "true"}
    settings, _ = load_settings({}, environ, tmp_path)
    assert settings.webhooks.allow == ("::1",) and settings.topics.core
