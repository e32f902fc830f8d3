"""Which model deployments the Foundry emulator has: the base model, and one per agent of the project's registry."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pydantic import BaseModel, ValidationError

from emulators.errors import BadSetting
from emulators.seed import read_registry

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What Foundry accepts as the name of a deployment."""


class _Knowledge(BaseModel):
    domain: str


class _Agent(BaseModel):
    domain_knowledge: _Knowledge


class _Registry(BaseModel):
    agents: list[object] = []


def deployment_names(base: str, registry: Path, more: str = "") -> list[str]:
    """`base`, `base-DOMAIN` for each agent's domain, and the comma-separated names in `more`, each once.

    An entry of the registry that is not understood is left out here: it is for the served app to report it.

    Raises:
        BadSetting: `base` or a name in `more` is none, or the registry is not JSON.
    """
    stated = [base, *(name.strip() for name in more.split(",") if name.strip())]
    for name in stated:
        if not NAME.fullmatch(name):
            raise BadSetting(
                f"{name!r} is no name for a model deployment: letters, digits, dots, dashes, underscores; at most 64"
            )
    return list(dict.fromkeys([*stated, *(f"{base}-{domain}" for domain in _domains(registry))]))


def _domains(registry: Path) -> list[str]:
    content = read_registry(registry)
    if content is None:
        return []
    try:
        entries = _Registry.model_validate_json(content).agents
    except ValidationError:
        return []
    found = []
    for entry in entries:
        try:
            domain = _Agent.model_validate(entry).domain_knowledge.domain
        except ValidationError:
            continue
        if NAME.fullmatch(domain):
            found.append(domain)
    return found


def write_deployments(path: Path, names: list[str]) -> None:
    """Writes the names as the emulator's `--deployments` file."""
    path.write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")
