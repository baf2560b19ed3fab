"""What all sections are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
)
from pydantic_core import PydanticCustomError, PydanticKnownError, core_schema

Share = Annotated[float, Field(ge=0.0, le=1.0)]


def _names(value: Any) -> Any:
    """One name or a list of names; a list of one is that one."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple):
        raise PydanticCustomError("string_type", "must be text")
    if not value or not all(isinstance(name, str) for name in value):
        raise PydanticCustomError("names", "must be the name of a file, or a list of names: [a.jsonl, b.jsonl]")
    return value[0] if len(value) == 1 else tuple(value)


Files = Annotated[str | tuple[str, ...], BeforeValidator(_names, json_schema_input_type=str | list[str])]
"""Data: a file, a glob, a folder, parallel files of lines, a hub data set, or a list of these (docs/files.md)."""


class Settings(BaseModel):
    """The base of all sections: immutable, and a key that is not a field is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, defer_build=True
    )


class OneOf:
    """Marks a section that is of one of several kinds, each a class of its own.

    `key` is the field that names the kind, `kinds` the table of them, looked up whenever a section is read; a section
    that does not name its kind is of the `default` one.
    """

    def __init__(self, key: str, kinds: Mapping[str, type[Settings]], default: str | None = None) -> None:
        self.key, self.kinds, self.default = key, kinds, default

    def kind_of(self, section: Mapping[str, Any]) -> type[Settings] | None:
        """The class that reads a section; None where it names no kind that there is."""
        name = section.get(self.key, self.default)
        return self.kinds.get(name) if isinstance(name, str) else None

    def read(self, section: Any) -> Settings:
        """Validate a section by the class of its kind."""
        if isinstance(section, Settings) and type(section) in self.kinds.values():
            return section
        if not isinstance(section, Mapping):
            raise PydanticKnownError("dict_type")
        if (kind := self.kind_of(section)) is not None:
            return kind.model_validate(section)
        if self.key not in section and self.default is None:
            raise PydanticKnownError("union_tag_not_found", {"discriminator": f"'{self.key}'"})
        named = {"discriminator": f"'{self.key}'", "tag": str(section.get(self.key))}
        raise PydanticKnownError("union_tag_invalid", named | {"expected_tags": ", ".join(self.kinds)})

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        for kind in self.kinds.values():
            kind.model_rebuild()  # which `defer_build` has left for its first use
        return {"oneOf": [handler(kind.__pydantic_core_schema__) for kind in self.kinds.values()]}
