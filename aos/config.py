"""The settings of AOS, from the environment (in Azure: the app settings of the function app).

Every connection accepts two forms under one name, as Azure Functions does: `NAME` holds a connection string (local
work), or `NAME__fullyQualifiedNamespace` / `NAME__accountName` / `NAME__blobServiceUri` name the service and the
managed identity signs in (`AZURE_CLIENT_ID` picks a user-assigned one).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from aos.config_ml import MLConfig as MLConfig
from aos.errors import SettingError

log = logging.getLogger("aos.config")

Role = Literal["agents", "mcp"]

STORAGE = "AZURE_STORAGE_CONNECTION_STRING"
SERVICE_BUS = "AZURE_SERVICE_BUS_CONNECTION_STRING"


def _named(name: str, *older: str) -> AliasChoices:
    return AliasChoices(name, *older)


ContainerName = Annotated[str, Field(pattern=r"^[a-z0-9](-?[a-z0-9]){2,62}$")]
# Of a queue that has a trigger; what it cannot handle goes to `{name}-poison`, of at most 63 characters.
StorageQueueName = Annotated[str, Field(pattern=r"^[a-z0-9](-?[a-z0-9]){2,55}$", max_length=56)]
_QUEUE_SERVICE = re.compile(r"https://[a-z0-9-]+(\.z\d+)?\.queue\.[a-z0-9.-]+")
OWN_CONTAINERS = frozenset(
    {"aos-state", "aos-payloads", "aos-conversations", "aos-agents", "aos-adapters", "app-values"}
)
"""Where AOS keeps what it knows: never shared."""
HOST_CONTAINERS = ("azure-webjobs-", "app-package-")
"""Beginnings of the names under which the Functions host keeps its keys, and `infra/` the code of the app."""


class Settings(BaseSettings):
    """One typed place for every setting. `load_settings` reads it and turns mistakes into `SettingError`."""

    model_config = SettingsConfigDict(extra="ignore", case_sensitive=False, env_ignore_empty=True)

    app_name: Annotated[str, Field(validation_alias=_named("AOS_APP_NAME"), pattern=r"^[A-Za-z0-9_-]{1,32}$")] = "aos"
    """Written into the metadata of everything that AOS makes in Foundry; it touches nothing else there."""
    roles: Annotated[frozenset[Role], NoDecode, Field(validation_alias=_named("AOS_ROLES"))] = frozenset(
        {"agents", "mcp"}
    )
    """Which functions this app registers: `agents`, `mcp`, or both separated by a comma."""

    use_foundry: Annotated[bool, Field(validation_alias=_named("USE_FOUNDRY_RUNTIME"))] = True
    foundry_api: Annotated[Literal["responses", "threads"], Field(validation_alias=_named("FOUNDRY_API"))] = "responses"
    threads_after_retirement: Annotated[bool, Field(validation_alias=_named("FOUNDRY_THREADS_AFTER_RETIREMENT"))] = (
        False
    )
    """Whether `FOUNDRY_API=threads` is used after that API was retired (2027-03-31)."""
    project_endpoint: Annotated[
        str | None,
        Field(
            validation_alias=_named("AZURE_AI_PROJECT_ENDPOINT", "PROJECT_ENDPOINT_ENT"),
            pattern=r"^https?://.+/api/projects/.+",
        ),
    ] = None
    """`https://<resource>.services.ai.azure.com/api/projects/<project>`"""
    project_api_key: Annotated[str | None, Field(validation_alias=_named("AZURE_AI_API_KEY"), repr=False)] = None
    """Without a key the app signs in with its identity."""
    model_deployment: Annotated[
        str, Field(validation_alias=_named("AZURE_AI_MODEL_DEPLOYMENT", "MODEL_DEPLOYMENT_NAME"))
    ] = "llama-3.3-70b"
    """Base name: an agent's deployment is `{model_deployment}-{domain}`."""

    model_endpoint: Annotated[
        str | None, Field(validation_alias=_named("AOS_MODEL_ENDPOINT"), pattern=r"^https?://.+")
    ] = None
    """OpenAI-compatible endpoint that serves the models when `use_foundry` is false: `http://127.0.0.1:8000/v1`."""
    model_api_key: Annotated[str | None, Field(validation_alias=_named("AOS_MODEL_API_KEY"), repr=False)] = None
    deployment_fallback: Annotated[bool, Field(validation_alias=_named("AOS_DEPLOYMENT_FALLBACK"))] = False
    """Whether an agent whose deployment does not exist thinks with the base deployment; its status says so."""

    base_model: Annotated[str | None, Field(validation_alias=_named("AOS_BASE_MODEL"))] = None
    """Folder or hub name of the base model for which adapters are trained and served on this machine."""
    adapters_dir: Annotated[str, Field(validation_alias=_named("AOS_ADAPTERS_DIR"))] = "adapters"
    """Folder of trained adapters on this machine."""

    storage: Annotated[str | None, Field(validation_alias=_named(STORAGE), repr=False)] = None
    storage_account: Annotated[str | None, Field(validation_alias=_named(f"{STORAGE}__accountName"))] = None
    storage_blob_uri: Annotated[str | None, Field(validation_alias=_named(f"{STORAGE}__blobServiceUri"))] = None
    storage_table_uri: Annotated[str | None, Field(validation_alias=_named(f"{STORAGE}__tableServiceUri"))] = None
    storage_queue_uri: Annotated[str | None, Field(validation_alias=_named(f"{STORAGE}__queueServiceUri"))] = None
    agent_container: Annotated[str, Field(validation_alias=_named("AGENT_CONFIG_BLOB_CONTAINER"))] = "agent-configs"
    mcp_container: Annotated[str, Field(validation_alias=_named("MCP_REGISTRY_BLOB_CONTAINER"))] = "mcp-registry"

    function_endpoint: Annotated[
        str | None, Field(validation_alias=_named("STORAGE_SERVICE_ENDPOINT", "STORAGE_SERVICE_ENDPONT"))
    ] = None
    """`https://<account>.queue.core.windows.net`: whose queues Azure Functions of agents are called over; without it
    those of the app's own account."""
    function_output_queues: Annotated[
        tuple[StorageQueueName, ...],
        NoDecode,
        Field(validation_alias=_named("AOS_FUNCTION_OUTPUT_QUEUES"), max_length=100),
    ] = ()
    """Output queues of functions, separated by commas, that get a trigger of their own: replies come at once."""

    shared_containers: Annotated[
        tuple[ContainerName, ...], NoDecode, Field(validation_alias=_named("AOS_SHARED_CONTAINERS"), min_length=1)
    ] = ("aos-shared",)
    """The blob containers that `aos.storage.*` over `aos-requests` reaches, separated by commas; the first is the
    default one."""

    service_bus: Annotated[
        str | None,
        Field(
            validation_alias=_named(
                SERVICE_BUS,
                "AZURE_SERVICEBUS_CONNECTION_STRING",
                "SERVICE_BUS_CONNECTION_STRING",
                "AzureServiceBusConnectionString",
            ),
            repr=False,
        ),
    ] = None
    service_bus_namespace: Annotated[
        str | None, Field(validation_alias=_named(f"{SERVICE_BUS}__fullyQualifiedNamespace"))
    ] = None

    events_sessions: Annotated[bool, Field(validation_alias=_named("AOS_EVENTS_SESSIONS"))] = False
    """Whether the subscription of `agent-events` requires sessions (strict order from senders that do not wait)."""

    lease_seconds: Annotated[float, Field(validation_alias=_named("AOS_LEASE_SECONDS"), ge=2.0, le=300.0)] = 30.0
    """How long a conversation, or a tool call, stays with a process that died; others go on with it then."""
    sweep_seconds: Annotated[int, Field(validation_alias=_named("AOS_SWEEP_SECONDS"), ge=1, le=30)] = 10
    """How often each process looks for turns that nobody drives."""
    context_tokens: Annotated[int, Field(validation_alias=_named("AOS_CONTEXT_TOKENS"), ge=1_000)] = 60_000
    """Size at which a conversation is rolled over before its next turn: half the window of llama-3.3-70b, so that three
    steps of a turn stay within its limit of tokens."""

    agent_backlog: Annotated[int, Field(validation_alias=_named("AOS_AGENT_BACKLOG"), ge=1, le=100_000)] = 10_000
    """Operations of one agent that may be unfinished; beyond it new messages are refused or put off."""

    key_vault: Annotated[
        str | None, Field(validation_alias=_named("AOS_KEY_VAULT_URL"), pattern=r"^https://[^/?#@]+/?$")
    ] = None
    """`https://<vault>.vault.azure.net`: where `${NAME}` of MCP servers is looked up, before the environment."""
    mcp_private_networks: Annotated[bool, Field(validation_alias=_named("AOS_MCP_PRIVATE_NETWORKS"))] = False
    """Whether MCP servers may lie at private and loopback addresses, such as in the app's virtual network."""

    client_id: Annotated[str | None, Field(validation_alias=_named("AZURE_CLIENT_ID"))] = None

    insights: Annotated[
        str | None, Field(validation_alias=_named("APPLICATIONINSIGHTS_CONNECTION_STRING"), repr=False)
    ] = None
    """Traces, metrics and logs go to this Application Insights; on Azure Functions the worker sends them itself."""
    otlp_endpoint: Annotated[
        str | None, Field(validation_alias=_named("OTEL_EXPORTER_OTLP_ENDPOINT"), pattern=r"^https?://.+")
    ] = None
    """Traces and metrics go to this OpenTelemetry collector, over HTTP."""
    telemetry: Annotated[Literal["console"] | None, Field(validation_alias=_named("AOS_TELEMETRY"))] = None
    """`console`: traces and metrics are printed to the standard output, one JSON object per line."""
    log_format: Annotated[Literal["text", "json"], Field(validation_alias=_named("AOS_LOG_FORMAT"))] = "text"
    """Of the lines that `aos serve` writes to the standard error."""

    host: Annotated[str, Field(validation_alias=_named("AOS_HOST"))] = "127.0.0.1"
    port: Annotated[int, Field(validation_alias=_named("AOS_PORT"), ge=0, le=65535)] = 7071
    function_key: Annotated[str | None, Field(validation_alias=_named("AOS_FUNCTION_KEY"), repr=False)] = None
    admin_key: Annotated[str | None, Field(validation_alias=_named("AOS_ADMIN_KEY"), repr=False)] = None
    keys: Annotated[str, Field(validation_alias=_named("AOS_KEYS"), repr=False)] = ""
    """JSON: further keys by name with their scopes; see `docs/security.md`."""
    entra_issuers: Annotated[tuple[str, ...], NoDecode, Field(validation_alias=_named("AOS_ENTRA_ISSUERS"))] = ()
    """Whose tokens are accepted, separated by commas: `https://login.microsoftonline.com/<tenant>/v2.0`."""
    entra_audiences: Annotated[tuple[str, ...], NoDecode, Field(validation_alias=_named("AOS_ENTRA_AUDIENCES"))] = ()

    @field_validator("entra_issuers", "entra_audiences", "shared_containers", "function_output_queues", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("function_key", "admin_key", "keys")
    @classmethod
    def _no_reference(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None or not is_reference(value):
            return value
        # Left as it is, it would be a key that everybody can guess who has read where secrets are kept.
        log.error(
            "AOS_%s is left out: its reference to Key Vault was not resolved. The secret must exist, and the app's"
            " identity needs the role Key Vault Secrets User; then restart the app.",
            str(info.field_name).upper(),
        )
        return "" if info.field_name == "keys" else None

    @field_validator("function_endpoint")
    @classmethod
    def _queue_service(cls, value: str | None) -> str | None:
        if value is None:
            return None
        endpoint = value.rstrip("/")
        parts = urlsplit(endpoint)
        if parts.query or parts.fragment or parts.username is not None:
            raise ValueError("it is an address alone, without a signature, a key or a user")
        if parts.scheme in ("http", "https") and is_loopback(parts.hostname or ""):
            return endpoint
        if parts.scheme != "https":
            raise ValueError("it must begin with https:// (http:// only for this machine)")
        if not _QUEUE_SERVICE.fullmatch(endpoint):
            raise ValueError("it must be a queue service, as in https://<account>.queue.core.windows.net")
        return endpoint

    @field_validator("roles", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return frozenset(part.strip() for part in value.split(",") if part.strip())
        return value

    @model_validator(mode="after")
    def _own_stay_closed(self) -> Self:
        closed = OWN_CONTAINERS | {self.agent_container, self.mcp_container}
        if taken := [name for name in self.shared_containers if name in closed or name.startswith(HOST_CONTAINERS)]:
            raise ValueError(f"AOS_SHARED_CONTAINERS: AOS keeps its own data in {', '.join(sorted(taken))}")
        return self

    @field_validator("roles")
    @classmethod
    def _some(cls, value: frozenset[Role]) -> frozenset[Role]:
        if not value:
            raise ValueError("name at least one of: agents, mcp")
        return value

    @property
    def storage_configured(self) -> bool:
        return bool(self.storage or self.storage_account or (self.storage_blob_uri and self.storage_table_uri))

    @property
    def queues_configured(self) -> bool:
        """Whether there is a queue service over which Azure Functions can be called."""
        return bool(self.function_endpoint or self.storage or self.storage_account or self.storage_queue_uri)

    @property
    def needs_identity(self) -> bool:
        """Whether some service is to be signed in to with the app's identity."""
        keys = self.storage and self.service_bus and (self.project_api_key or not self.use_foundry)
        other = self.function_endpoint is not None and not is_loopback(urlsplit(self.function_endpoint).hostname or "")
        return self.key_vault is not None or other or not keys

    @property
    def bus_configured(self) -> bool:
        return bool(self.service_bus or self.service_bus_namespace)


def is_reference(value: str) -> bool:
    """Whether a value is a reference to Key Vault, which App Service passes on as it is when it cannot resolve it."""
    return value.lstrip().lower().startswith("@microsoft.keyvault(")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load_settings(values: Mapping[str, object] | None = None) -> Settings:
    """Reads the settings.

    Args:
        values: Settings by name that win over the environment (for tests and embedding).

    Raises:
        SettingError: Naming each wrong setting and why, without its value.
    """
    given = dict(values or {})
    environment = _environment()
    for name in {spelt.upper() for spelt in given}:
        # Under any of its names, a value that is given wins.
        for alias in _SAME.get(name, ()):
            environment.pop(alias, None)
    try:
        return Settings.model_validate({**environment, **given})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise SettingError(f"Wrong settings: {problems}.") from None


def _names() -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    for field in Settings.model_fields.values():
        if isinstance(field.validation_alias, AliasChoices):
            choices = tuple(str(choice) for choice in field.validation_alias.choices)
            names |= dict.fromkeys((choice.upper() for choice in choices), choices)
    return names


_SAME = _names()
"""All names of a setting, under each of them in capitals."""


def _environment() -> dict[str, object]:
    """The environment through pydantic-settings' own reader, so that aliases behave alike everywhere."""
    from pydantic_settings import EnvSettingsSource

    return dict(EnvSettingsSource(Settings)())
