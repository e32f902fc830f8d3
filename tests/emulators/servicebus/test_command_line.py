"""``python -m emulators.servicebus``."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from azure.servicebus import ServiceBusClient, ServiceBusMessage

from emulators.servicebus.__main__ import main

COMMAND = [sys.executable, "-m", "emulators.servicebus"]


@pytest.mark.usefixtures("collected")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_the_connection_string_serves_and_ends(tmp_path: Path, number: signal.Signals) -> None:
    command = [*COMMAND, "--port", "0", "--db", str(tmp_path / "bus.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        pattern = (
            r"Endpoint=sb://127\.0\.0\.1:\d+;SharedAccessKeyName=RootManageSharedAccessKey;"
            r"SharedAccessKey=SAS_KEY_VALUE;UseDevelopmentEmulator=true;"
        )
        assert re.fullmatch(pattern, line)
        with (
            ServiceBusClient.from_connection_string(line) as client,
            client.get_queue_sender("agent-commands") as sender,
        ):
            sender.send_messages(ServiceBusMessage("x"))
            process.send_signal(number)
            assert process.wait(60) == 0
        assert process.stdout.read() == ""
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_port_in_use_is_one_line_and_exit_code_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run([*COMMAND, "--port", str(port)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"cannot listen on 127.0.0.1:{port}: ")
    assert done.stderr.count("\n") == 1


def test_a_bad_configuration_or_database_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"UserConfig": {"Namespaces": [{"Queues": [{"Name": 5}]}]}}')
    assert main(["--port", "0", "--config", str(path)]) == 2
    assert "$.UserConfig.Namespaces[0].Queues[0].Name" in capsys.readouterr().err
    assert main(["--port", "0", "--db", str(tmp_path)]) == 2
    assert "cannot be used as a database" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--port", "65536"], ["--port", "x"], ["--max-message-bytes", "10"], ["--what"]])
def test_bad_options_are_exit_code_2(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(option)
    assert caught.value.code == 2
    assert option[0] in capsys.readouterr().err
