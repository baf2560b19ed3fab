"""The API as OpenAPI 3.1 describes it, made of the classes that read requests and write answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from polygraft import __version__
from polygraft.serving.messages import FileRequest, ModelDescription, TextAnswer, TextRequest
from polygraft.serving.uploads import MEDIA_TYPES
from polygraft.settings import Serve

REFUSALS = {
    "400": "what is no HTTP", "401": "no token, or not the right one", "403": "called by another name or by the page "
    "of another site", "408": "too slow", "413": "too large", "415": "of another type", "422": "not as described, "
    "with the reason", "429": "too many requests of one address; Retry-After says when to come again",
    "503": "too many requests of all; Retry-After says when to come again",
}  # fmt: skip
REFERENCE = "#/components/schemas/{model}"


def description(settings: Serve) -> dict[str, Any]:
    """Return the content of /openapi.json."""
    kinds = (TextRequest, TextAnswer, FileRequest, ModelDescription)
    schemas: dict[str, Any] = {}
    for kind in kinds:
        schema = TypeAdapter(kind).json_schema(ref_template=REFERENCE)
        schemas |= schema.pop("$defs", {}) | {kind.__name__: schema}
    fields = schemas.pop(FileRequest.__name__)
    parameters = [
        {"name": name, "in": "query", "required": name in fields["required"], "schema": schema}
        for name, schema in fields["properties"].items()
    ]
    file = {"schema": {"type": "string"}}
    refused = {status: {"description": words, "content": _json({"type": "object", "properties": {
        "error": {"type": "string"}}})} for status, words in REFUSALS.items()}  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": "polygraft serve", "version": __version__, "description": _limits(settings)},
        "paths": {
            "/health": {"get": _get("Whether the server answers", {"type": "object"})},
            "/api/models": {"get": _get("The models", {"type": "array", "items": _named(ModelDescription)})},
            "/api/generate": {"post": {
                "summary": "Outputs for texts",
                "requestBody": {"required": True, "content": _json(_named(TextRequest))},
                "responses": {"200": {"description": "The outputs", "content": _json(_named(TextAnswer))}, **refused},
            }},
            "/api/files": {"post": {
                "summary": "Outputs for the rows of a file, which is the body",
                "parameters": parameters,
                "requestBody": {"required": True, "content": {"*/*": file}},
                "responses": {
                    "200": {
                        "description": "The file, its rows with their outputs, as they are made; a connection that "
                        "ends early means that decoding failed",
                        "headers": {
                            "X-Rows": {"description": "rows to come", "schema": {"type": "integer"}},
                            "X-Skipped-Rows": {"description": "rows left out", "schema": {"type": "integer"}},
                        },
                        "content": dict.fromkeys(MEDIA_TYPES.values(), file),
                    },
                    **refused,
                },
            }},
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],
    }  # fmt: skip


def _get(summary: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": summary, "content": _json(schema)}}}


def _json(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _named(kind: type) -> dict[str, str]:
    return {"$ref": REFERENCE.format(model=kind.__name__)}


def _limits(settings: Serve) -> str:
    return (
        f"At most {settings.per_device_eval_batch_size} texts of {settings.max_text_characters:,} characters in a "
        f"request, {settings.max_file_megabytes:g} MB and {settings.max_file_rows:,} rows in a file."
    )
