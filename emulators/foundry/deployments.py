"""Model deployments of the emulated project."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from emulators.foundry.errors import ApiError
from emulators.foundry.model import JsonObject

BASE_DEPLOYMENT = "llama-3.3-70b"
DEFAULT_DEPLOYMENTS = (BASE_DEPLOYMENT, *(f"{BASE_DEPLOYMENT}-{role}" for role in ("ceo", "cfo", "cto", "cmo", "coo")))


class Deployment(BaseModel):
    """A deployment as a deployments file states it: ``name`` is enough."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    model_name: str = Field(default="Llama-3.3-70B-Instruct", alias="modelName")
    model_version: str = Field(default="1", alias="modelVersion")
    model_publisher: str = Field(default="Meta", alias="modelPublisher")

    def wire(self) -> JsonObject:
        """The object of ``GET /deployments``."""
        return {
            "type": "ModelDeployment",
            "name": self.name,
            "modelName": self.model_name,
            "modelVersion": self.model_version,
            "modelPublisher": self.model_publisher,
            "capabilities": {"chat_completion": "true"},
            "sku": {"name": "GlobalStandard", "tier": "Standard", "family": "", "size": "", "capacity": 1},
        }


_FILE = TypeAdapter(list[str | Deployment])


def parse_deployments(names: list[str | Deployment]) -> list[Deployment]:
    """Deployments from names or full entries.

    Raises:
        ValueError: a name the service would not accept, or the same name twice.
    """
    parsed: list[Deployment] = []
    for entry in names:
        try:
            parsed.append(entry if isinstance(entry, Deployment) else Deployment(name=entry))
        except ValidationError as error:
            raise ValueError(f"'{entry}' is no deployment name: {error.errors()[0]['msg']}") from error
    if len({deployment.name for deployment in parsed}) != len(parsed):
        raise ValueError("deployments: a name occurs twice")
    return parsed


def read_deployments(path: Path) -> list[Deployment]:
    """Deployments from a JSON file: a list of names or of objects with ``name``.

    Raises:
        ValueError: the file is not of that form.
        OSError: the file cannot be read.
    """
    try:
        return parse_deployments(_FILE.validate_json(path.read_bytes()))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "".join(f"[{part}]" for part in first["loc"] if isinstance(part, int)) or "the whole"
        raise ValueError(f"{path}: {where}: {first['msg']}, not {first['input']!r}") from error


def deployment_not_found(name: str, status: int = 404) -> ApiError:
    """The service's refusal of a deployment name that the project lacks."""
    message = f"The API deployment '{name}' for this resource does not exist. Deploy it or use one of GET /deployments."
    return ApiError(status, "DeploymentNotFound", message, param="model")
