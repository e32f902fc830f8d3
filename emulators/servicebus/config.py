"""The configuration file: the JSON form of Microsoft's Service Bus emulator, checked and turned into `Entities`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from emulators.servicebus import entities

MAX_CONFIG_BYTES = 4 << 20
_DAY_MS = 86_400_000
_DURATION = re.compile(r"P(?:(\d{1,9})D)?(?:T(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9})(?:\.(\d{1,9}))?S)?)?")


class ConfigError(ValueError):
    """A configuration that cannot be used; the text names each JSON path and what is wrong there."""


def load_entities(source: str | Path | Mapping[str, object] | None = None) -> entities.Entities:
    """Read a configuration: a file, a parsed document, or (None) the entities that the package brings along.

    Raises `ConfigError`.
    """
    if isinstance(source, Mapping):
        return _parse(source, "configuration")
    if source is None:
        text, name = files(__package__).joinpath("default_entities.json").read_text("utf-8"), "default_entities.json"
    else:
        name = str(source)
        try:
            with Path(source).open("rb") as file:
                data = file.read(MAX_CONFIG_BYTES + 1)
            if len(data) > MAX_CONFIG_BYTES:
                raise ConfigError(f"{name}: larger than {MAX_CONFIG_BYTES} bytes.")
            text = data.decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name}: cannot be read: {error}") from error
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: not valid JSON: {error}") from error
    return _parse(document, name)


def _parse(document: object, name: str) -> entities.Entities:
    try:
        return _Document.model_validate(document).entities()
    except ValidationError as error:
        lines = [f"{name}: {_json_path(item['loc'])}: {item['msg']}" for item in error.errors(include_url=False)]
        raise ConfigError("\n".join(lines)) from error


def _json_path(location: Iterable[str | int]) -> str:
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)


def _milliseconds(value: object, *, minimum: int, maximum: int | None = None) -> int:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None or match.lastindex is None:
        raise ValueError("has to be an ISO 8601 duration of days, hours, minutes and seconds, such as PT1M")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups()[:4])
    fraction = int((match[5] or "").ljust(3, "0")[:3])
    result = (((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1000 + fraction
    if result < minimum or (maximum is not None and result > maximum):
        bound = (
            f"between {minimum / 1000:g} s and {maximum / 1000:g} s" if maximum else f"at least {minimum / 1000:g} s"
        )
        raise ValueError(f"has to be {bound}")
    return result


def _no_forwarding(value: str) -> str:
    if value:
        raise ValueError("auto-forwarding is not emulated; remove it")
    return value


_LockDuration = Annotated[int, BeforeValidator(partial(_milliseconds, minimum=1000, maximum=300_000))]
_TimeToLive = Annotated[int, BeforeValidator(partial(_milliseconds, minimum=1000))]
_DuplicateWindow = Annotated[int, BeforeValidator(partial(_milliseconds, minimum=1000, maximum=7 * _DAY_MS))]
_EntityName = Annotated[
    str, Field(min_length=1, max_length=260, pattern=r"^[A-Za-z0-9]$|^[A-Za-z0-9][\w./~-]*[A-Za-z0-9_]$")
]
_ChildName = Annotated[
    str, Field(min_length=1, max_length=50, pattern=r"^[A-Za-z0-9]$|^[A-Za-z0-9][\w.-]*[A-Za-z0-9_]$")
]
_NotForwarded = Annotated[str, AfterValidator(_no_forwarding)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _TopicProperties(_Model):
    DefaultMessageTimeToLive: _TimeToLive | None = None
    RequiresDuplicateDetection: bool = False
    DuplicateDetectionHistoryTimeWindow: _DuplicateWindow = 600_000

    def duplicate_window_ms(self) -> int | None:
        return self.DuplicateDetectionHistoryTimeWindow if self.RequiresDuplicateDetection else None


class _SubscriptionProperties(_Model):
    DeadLetteringOnMessageExpiration: bool = False
    DefaultMessageTimeToLive: _TimeToLive | None = None
    LockDuration: _LockDuration = 60_000
    MaxDeliveryCount: Annotated[int, Field(ge=1, le=2000)] = 10
    RequiresSession: bool = False
    ForwardTo: _NotForwarded = ""
    ForwardDeadLetteredMessagesTo: _NotForwarded = ""

    def options(self, duplicate_window_ms: int | None = None) -> entities.QueueOptions:
        return entities.QueueOptions(
            lock_ms=self.LockDuration,
            max_delivery_count=self.MaxDeliveryCount,
            requires_session=self.RequiresSession,
            dead_letter_on_expiration=self.DeadLetteringOnMessageExpiration,
            default_ttl_ms=self.DefaultMessageTimeToLive,
            duplicate_window_ms=duplicate_window_ms,
        )


class _QueueProperties(_SubscriptionProperties, _TopicProperties):
    pass


class _CorrelationFilter(_Model):
    ContentType: str | None = None
    CorrelationId: str | None = None
    Label: str | None = None
    Subject: str | None = None
    MessageId: str | None = None
    ReplyTo: str | None = None
    ReplyToSessionId: str | None = None
    SessionId: str | None = None
    To: str | None = None
    Properties: dict[str, str | int | float | bool] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _has_a_condition(self) -> _CorrelationFilter:
        if not self.Properties and not self.system():
            raise ValueError("names no property; give at least one, or FilterType True to take every message")
        return self

    def system(self) -> dict[str, str]:
        subject = self.Subject if self.Subject is not None else self.Label
        conditions = {
            "content_type": self.ContentType,
            "correlation_id": self.CorrelationId,
            "subject": subject,
            "message_id": self.MessageId,
            "reply_to": self.ReplyTo,
            "reply_to_group_id": self.ReplyToSessionId,
            "group_id": self.SessionId,
            "to": self.To,
        }
        return {name: value for name, value in conditions.items() if value is not None}


class _RuleProperties(_Model):
    FilterType: Literal["Correlation", "True", "TrueFilter"]
    CorrelationFilter: _CorrelationFilter | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_sql(cls, value: Any) -> Any:  # Any: pydantic's signature for what has not been validated yet
        if isinstance(value, dict) and (value.get("FilterType") in ("Sql", "SqlFilter") or "SqlFilter" in value):
            raise ValueError("SQL filters are not emulated; use FilterType Correlation")
        if isinstance(value, dict) and "Action" in value:
            raise ValueError("rule actions are not emulated; remove Action")
        return value

    @model_validator(mode="after")
    def _has_its_filter(self) -> _RuleProperties:
        if (self.FilterType == "Correlation") != (self.CorrelationFilter is not None):
            raise ValueError("CorrelationFilter belongs to FilterType Correlation, and only to it")
        return self


class _Rule(_Model):
    Name: _ChildName
    Properties: _RuleProperties


class _Subscription(_Model):
    Name: _ChildName
    Properties: _SubscriptionProperties = Field(default_factory=_SubscriptionProperties)
    Rules: list[_Rule] = Field(default_factory=list)

    def entity(self) -> entities.Subscription:
        correlations = [rule.Properties.CorrelationFilter for rule in self.Rules]
        filters = tuple(entities.CorrelationFilter(item.system(), item.Properties) for item in correlations if item)
        takes_all = None in correlations
        return entities.Subscription(self.Name, self.Properties.options(), () if takes_all else filters)


class _Topic(_Model):
    Name: _EntityName
    Properties: _TopicProperties = Field(default_factory=_TopicProperties)
    Subscriptions: list[_Subscription] = Field(default_factory=list)

    def entity(self) -> entities.Topic:
        return entities.Topic(
            self.Name,
            tuple(subscription.entity() for subscription in self.Subscriptions),
            self.Properties.DefaultMessageTimeToLive,
            self.Properties.duplicate_window_ms(),
        )

    @model_validator(mode="after")
    def _distinct(self) -> _Topic:
        _refuse_duplicates("subscription", [subscription.Name for subscription in self.Subscriptions])
        return self


class _Queue(_Model):
    Name: _EntityName
    Properties: _QueueProperties = Field(default_factory=_QueueProperties)

    def entity(self) -> entities.Queue:
        return entities.Queue(self.Name, self.Properties.options(self.Properties.duplicate_window_ms()))


class _Namespace(_Model):
    Name: str = "sbemulatorns"
    Queues: list[_Queue] = Field(default_factory=list)
    Topics: list[_Topic] = Field(default_factory=list)

    @model_validator(mode="after")
    def _distinct(self) -> _Namespace:
        names = [queue.Name for queue in self.Queues] + [topic.Name for topic in self.Topics]
        _refuse_duplicates("entity", names)
        return self


class _UserConfig(_Model):
    Namespaces: Annotated[list[_Namespace], Field(min_length=1, max_length=1)]
    Logging: dict[str, object] = Field(default_factory=dict)


class _Document(_Model):
    UserConfig: _UserConfig

    def entities(self) -> entities.Entities:
        namespace = self.UserConfig.Namespaces[0]
        return entities.Entities(
            tuple(queue.entity() for queue in namespace.Queues),
            tuple(topic.entity() for topic in namespace.Topics),
        )


def _refuse_duplicates(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            raise ValueError(f"the {what} {name!r} is there twice (names are compared without case)")
        seen.add(name.lower())
