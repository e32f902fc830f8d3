"""The stack's own settings, and the file that it writes."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from emulators.errors import BadSetting
from emulators.settings import load_settings, write_dotenv


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AOS_STATE_DIR", "AOS_BLOB_PORT", "AOS_FOUNDRY_MODEL", "AZURE_AI_MODEL_DEPLOYMENT"):
        monkeypatch.delenv(name, raising=False)
    settings = load_settings()
    assert settings.state_dir == Path(".aos")
    assert (settings.blob_port, settings.queue_port, settings.table_port) == (10000, 10001, 10002)
    assert (settings.servicebus_port, settings.foundry_port, settings.foundry_model) == (5672, 8765, "offline")
    assert settings.model_deployment == "llama-3.3-70b"


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AOS_STATE_DIR", "elsewhere")
    monkeypatch.setenv("AOS_BLOB_PORT", "0")
    monkeypatch.setenv("AOS_QUEUE_PORT", "")
    monkeypatch.setenv("FOUNDRY_API", "threads")
    settings = load_settings()
    assert (settings.state_dir, settings.blob_port, settings.queue_port) == (Path("elsewhere"), 0, 10001)
    assert settings.foundry_api == "threads"


def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AOS_BLOB_PORT", "65536")
    monkeypatch.setenv("AOS_SERVICEBUS_PORT", "amqp")
    with pytest.raises(BadSetting, match=r"AOS_BLOB_PORT='65536': .*; AOS_SERVICEBUS_PORT='amqp': .*integer"):
        load_settings()


def test_the_file_is_private_replaced_whole_and_read_by_a_shell(tmp_path: Path) -> None:
    path = tmp_path / "new" / "local.env"
    connection = "Endpoint=sb://127.0.0.1:5672;SharedAccessKey=a+b/c==;UseDevelopmentEmulator=true;"
    write_dotenv(path, {"OLD": "1"})
    write_dotenv(path, {"CONNECTION": connection, "PLAIN": "http://127.0.0.1:8765/api/projects/local", "EMPTY": ""})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["local.env"]
    script = f'set -eu; . {path}; printf "%s|%s|%s|%s" "$CONNECTION" "$PLAIN" "$EMPTY" "${{OLD-gone}}"'
    shown = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown == f"{connection}|http://127.0.0.1:8765/api/projects/local||gone"


def test_a_value_that_no_file_can_hold_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "local.env"
    write_dotenv(path, {"A": "1"})
    with pytest.raises(BadSetting, match="quote or a line break"):
        write_dotenv(path, {"A": "it's"})
    assert path.read_text() == "A=1\n"
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(BadSetting, match="cannot write the settings"):
        write_dotenv(path / "below", {"A": "1"})
