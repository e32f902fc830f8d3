"""Parameters of a route, checked against what it declares."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from pydantic import TypeAdapter, ValidationError

from runtime.problems import FieldError, invalid_parameters
from runtime.routes import Parameter, Route


def check_parameters(
    route: Route, path: Mapping[str, str], query: Mapping[str, str], headers: Mapping[str, str]
) -> None:
    """Raises a 400 `Problem` that names each parameter that is missing or does not fit its type."""
    given = {"path": path, "query": query, "header": headers}
    faults: list[FieldError] = []
    for parameter in route.parameters:
        value = given[parameter.where].get(parameter.name)
        pointer = f"/{parameter.where}/{parameter.name}"
        if value is None:
            if parameter.required:
                faults.append(FieldError(pointer, "Parameter required"))
            continue
        try:
            adapter(parameter).validate_strings(value)
        except ValidationError as error:
            faults.append(FieldError(pointer, error.errors(include_url=False, include_context=False)[0]["msg"]))
    if faults:
        raise invalid_parameters(faults)


@functools.cache
def adapter(parameter: Parameter) -> TypeAdapter[object]:
    """Reads the parameter's text."""
    return TypeAdapter(parameter.kind)
