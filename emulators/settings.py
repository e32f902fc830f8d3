"""The settings of the local stack, and the file of settings that it writes for others."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from emulators.errors import BadSetting

Port = Annotated[int, Field(ge=0, le=65535)]


class StackSettings(BaseSettings):
    """Where the stack keeps its state and which ports its parts have (0 = a free one), from the environment.

    Settings of the served app that do not name a part of the stack keep the value that the environment gives them.
    """

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", frozen=True, populate_by_name=True)

    state_dir: Path = Field(Path(".aos"), validation_alias="AOS_STATE_DIR")
    azurite_dir: Path | None = Field(None, validation_alias="AOS_AZURITE_DIR")
    """Where Azurite is installed; the state folder if unset."""
    blob_port: Port = Field(10000, validation_alias="AOS_BLOB_PORT")
    queue_port: Port = Field(10001, validation_alias="AOS_QUEUE_PORT")
    table_port: Port = Field(10002, validation_alias="AOS_TABLE_PORT")
    servicebus_port: Port = Field(5672, validation_alias="AOS_SERVICEBUS_PORT")
    foundry_port: Port = Field(8765, validation_alias="AOS_FOUNDRY_PORT")
    calendar_port: Port = Field(8770, validation_alias="AOS_CALENDAR_PORT")
    servicebus_config: Path | None = Field(None, validation_alias="AOS_SERVICEBUS_CONFIG")
    """Queues and topics in the JSON form of Microsoft's emulator; those of AOS if unset."""
    foundry_model: str = Field("offline", validation_alias="AOS_FOUNDRY_MODEL")
    """`offline`, or the URL of a server that speaks OpenAI's protocol."""

    foundry_deployments: str = Field("", validation_alias="AOS_FOUNDRY_DEPLOYMENTS")
    """Model deployments, separated by commas, besides the base model and those of the project's agents."""

    agent_container: str = Field("agent-configs", validation_alias="AGENT_CONFIG_BLOB_CONTAINER")
    mcp_container: str = Field("mcp-registry", validation_alias="MCP_REGISTRY_BLOB_CONTAINER")
    model_deployment: str = Field("llama-3.3-70b", validation_alias="AZURE_AI_MODEL_DEPLOYMENT")
    foundry_api: str = Field("responses", validation_alias="FOUNDRY_API")
    use_foundry_runtime: str = Field("true", validation_alias="USE_FOUNDRY_RUNTIME")


def load_settings() -> StackSettings:
    """The settings in the environment.

    Raises:
        BadSetting: naming each setting that cannot be used, and why.
    """
    try:
        return StackSettings()
    except ValidationError as error:
        problems = (f"{problem['loc'][0]}={problem['input']!r}: {problem['msg']}" for problem in error.errors())
        raise BadSetting("; ".join(problems)) from None


def write_dotenv(path: Path, values: Mapping[str, str]) -> None:
    """Writes `NAME=value` lines that dotenv readers and shells understand, at once and readable by the owner alone."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Made with mode 600, and beside its target, so that the replacement is atomic.
        descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.writelines(f"{name}={_quoted(value)}\n" for name, value in values.items())
            os.replace(aside, path)
        except BaseException:
            os.unlink(aside)
            raise
    except OSError as error:
        raise BadSetting(f"cannot write the settings to {path}: {error.strerror}") from error


def _quoted(value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_./:-]*", value):
        return value
    if "'" in value or "\n" in value:
        raise BadSetting(f"{value!r} cannot be written to a settings file: it holds a quote or a line break")
    return f"'{value}'"
