"""The arguments of a call, compared with the input schema that the server itself lists (JSON Schema 2020-12)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aos.mcp.errors import ParamsInvalid, SchemaUnusable
from aos.mcp.tools import ToolInfo

if TYPE_CHECKING:
    from jsonschema_rs import Validator

SHOWN = 10
LONGEST = 300


def compile_schema(server_id: str, tool: ToolInfo) -> Validator:
    """A validator for the tool's arguments; keep it, compiling costs fifty times a validation.

    Raises:
        SchemaUnusable: The schema is not valid, or refers to something outside itself.
    """
    import jsonschema_rs

    try:
        return jsonschema_rs.validator_for(tool.input_schema, validate_formats=True, offline=True)
    except ValueError as error:
        reason = error.message if isinstance(error, jsonschema_rs.ValidationError) else str(error)
        raise SchemaUnusable(
            f"The input schema of tool {tool.name!r} of MCP server {server_id} cannot be used: {reason[:LONGEST]}. "
            "Mend the server."
        ) from None


def check_arguments(validator: Validator, arguments: Mapping[str, Any]) -> None:
    """Compares arguments with the schema.

    Raises:
        ParamsInvalid: They do not fit.
    """
    if validator.is_valid(arguments):
        return
    faults = [
        f"/tool_params{''.join(f'/{part}' for part in error.instance_path)}: {error.message[:LONGEST]}"
        for _, error in zip(range(SHOWN), validator.iter_errors(arguments), strict=False)
    ]
    raise ParamsInvalid("; ".join(faults))
