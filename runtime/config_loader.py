"""RuntimeConfig: the settings of the runtime itself, from the environment, a JSON file, a dict or keywords."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from runtime.routes import AuthLevel

StorageType = Literal["blob", "memory"]
MessagingType = Literal["servicebus"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]

_ENVIRONMENT = "environment"


class RuntimeConfigError(ValueError):
    """A setting cannot be used. `faults` maps each offending key, preceded by its source, to what is wrong with it."""

    def __init__(self, faults: Mapping[str, str]) -> None:
        self.faults = dict(faults)
        super().__init__("; ".join(f"{key}: {fault}" for key, fault in self.faults.items()))


class RuntimeConfig(BaseModel):
    """What an application tells the runtime about itself. Subclass it to add settings.

    `auth_level` is the level of routes that name none, in the registry that `create_runtime` makes. `storage_type` is
    what `open_storage` opens, `messaging_type` what queue and topic routes listen to: nothing but Service Bus.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    app_name: str = Field(default="MyApp", min_length=1)
    app_version: str = "1.0.0"
    app_environment: str = "production"
    azure_functions_enabled: bool = True
    auth_level: AuthLevel = AuthLevel.FUNCTION
    agent_framework_enabled: bool = False
    aos_enabled: bool = True
    storage_type: StorageType = "blob"
    messaging_type: MessagingType = "servicebus"
    observability_enabled: bool = True
    log_level: LogLevel = "INFO"
    circuit_breaker_enabled: bool = True
    retry_enabled: bool = True
    max_retries: int = Field(default=3, ge=0, le=100)
    custom_config: dict[str, object] = Field(default_factory=dict)

    @field_validator("auth_level", "log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Self:
        """From a mapping of field names. Raises `RuntimeConfigError` that names every faulty or unknown key."""
        return cls._merged([("configuration", values)])

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Self:
        """From a JSON object in a file. Raises `RuntimeConfigError` that names the file, and the keys at fault."""
        return cls._merged([(str(path), _read_object(Path(path)))])

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """From environment variables: field names in upper case, JSON for objects and lists. Blank means unset.

        Raises `RuntimeConfigError` that names the variables at fault.
        """
        return cls._merged([(_ENVIRONMENT, cls._read_environment(environ))])

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        values: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Self:
        """From all sources: `values`, over the environment, over the file, over the defaults.

        `custom_config` is merged key by key in the same order; every other setting is taken whole.
        """
        file = [(str(path), _read_object(Path(path)))] if path is not None else []
        return cls._merged([*file, (_ENVIRONMENT, cls._read_environment(environ)), ("configuration", values or {})])

    @classmethod
    def _read_environment(cls, environ: Mapping[str, str] | None) -> dict[str, object]:
        source = os.environ if environ is None else environ
        values: dict[str, object] = {}
        for name, info in cls.model_fields.items():
            text = source.get(name.upper(), "").strip()
            if not text:
                continue
            try:
                values[name] = _from_text(text, info.annotation)
            except (ValueError, RecursionError) as error:
                raise RuntimeConfigError({f"{_ENVIRONMENT}: {name.upper()}": f"is not JSON: {error}"}) from None
        return values

    @classmethod
    def _merged(cls, layers: Iterable[tuple[str, Mapping[str, object]]]) -> Self:
        merged: dict[str, object] = {}
        origin: dict[str, str] = {}
        for source, layer in layers:
            for name, value in layer.items():
                below = merged.get(name)
                merged[name] = {**below, **value} if isinstance(below, dict) and isinstance(value, dict) else value
                origin[name] = f"{source}: {name.upper() if source == _ENVIRONMENT else name}"
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            faults: dict[str, str] = {}
            for fault in error.errors(include_url=False, include_input=False, include_context=False):
                # What a validator of the whole model finds wrong has no place.
                name, *rest = (str(part) for part in fault["loc"] or ("configuration",))
                faults["/".join([origin.get(name, name), *rest])] = fault["msg"]
            raise RuntimeConfigError(faults) from None


def _from_text(text: str, annotation: object) -> object:
    """What the text of an environment variable stands for: JSON, if its field takes objects or lists.

    Raises:
        ValueError, RecursionError: It is no JSON, and the field takes nothing else.
    """
    members = list(_members(annotation))
    if not any(map(_is_structure, members)):
        return text
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        if all(member is NoneType or _is_structure(member) for member in members):
            raise
        return text
    return value if isinstance(value, (dict, list)) or (value is None and NoneType in members) else text


def _members(annotation: object) -> Iterator[object]:
    """The types of a union, or the type itself, without what annotates them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield origin or annotation


def _is_structure(kind: object) -> bool:
    if not isinstance(kind, type) or issubclass(kind, (str, bytes)):
        return False
    return issubclass(kind, (Collection, BaseModel)) or is_dataclass(kind)


def load_runtime_config(
    config_path: str | os.PathLike[str] | None = None,
    config_dict: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> RuntimeConfig:
    """The configuration from every source: `config_dict`, over the environment, over the file, over the defaults."""
    return RuntimeConfig.load(config_path, config_dict, environ)


def _read_object(path: Path) -> dict[str, object]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RuntimeConfigError({str(path): f"cannot be read: {error.strerror}"}) from error
    except ValueError as error:
        raise RuntimeConfigError({str(path): f"is not JSON: {error}"}) from error
    if not isinstance(value, dict):
        raise RuntimeConfigError({str(path): f"must hold a JSON object, not {type(value).__name__}"})
    return value
