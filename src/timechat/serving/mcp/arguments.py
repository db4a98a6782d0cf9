"""Base of the arguments of all tools."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Arguments(BaseModel):
    """Arguments of a tool; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, values: Any) -> Any:
        """Take null for an optional argument as its default: some clients send every argument."""
        if not isinstance(values, dict):
            return values
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: value for name, value in values.items() if value is not None or name not in optional}

    @classmethod
    def input_schema(cls) -> dict[str, Any]:
        """Return the JSON schema, in which every optional argument may be null."""
        schema = cls.model_json_schema()
        for name, argument in schema.get("properties", {}).items():
            if name in schema.get("required", ()) or "anyOf" in argument:
                continue
            kept = {key: argument.pop(key) for key in ("default", "description", "title") if key in argument}
            schema["properties"][name] = {"anyOf": [argument, {"type": "null"}], **kept}
        return schema
