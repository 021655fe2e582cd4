"""The configuration as JSON Schema, for editors that complete and check while somebody writes.

Made from the same models that judge a file, so it cannot say anything else; what it cannot express (rules of one name,
a burst above its quota) is found by `check`.
"""

from __future__ import annotations

from typing import Any, Final

import orjson
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from policies import quantities
from policies.answer_rules import why_never_kept
from policies.routing import RouteTable
from proxy.config import Config

_IN_WORDS: Final = {
    f"^{quantities.DURATION}$": quantities.duration_text,
    f"^(?!0+[a-z]){quantities.DURATION}$": quantities.duration_text,
    f"^{quantities.SIZE}$": quantities.size_text,
}


class _Generator(GenerateJsonSchema):
    """As pydantic's, with defaults written as an operator writes them, and without titles: they repeat the key."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        made = super().default_schema(schema)
        default = schema.get("default")
        if isinstance(default, BaseModel) or (isinstance(default, tuple) and default):
            made.pop("default", None)  # every field in it has its own
        elif isinstance(default, int) and (words := _IN_WORDS.get(made.get("pattern", ""))) is not None:
            made["default"] = words(default)
        return made

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  # pydantic's signature
        return False


def config_schema(routes: RouteTable) -> bytes:
    """The schema as it stands in config.schema.json."""
    schema = Config.model_json_schema(schema_generator=_Generator)
    for model in schema["$defs"].values():
        model.pop("title", None)
    _name_endpoints(schema, routes)
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "bybit-gateway configuration",
    }
    return orjson.dumps(whole, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _name_endpoints(schema: JsonSchemaValue, routes: RouteTable) -> None:
    """An editor can offer the names."""
    schema["$defs"]["Endpoint"] = {"type": "string", "enum": sorted(routes.endpoints())}
    known = {"$ref": "#/$defs/Endpoint"}
    one_or_many = [known, {"type": "array", "items": known, "minItems": 1}]
    schema["$defs"]["MatchSection"]["properties"]["endpoint"]["anyOf"] = [*one_or_many, {"type": "null"}]
    schema["$defs"]["HeavySection"]["properties"]["endpoints"]["anyOf"] = one_or_many
    schema["$defs"]["PaceSection"]["properties"]["endpoint"]["anyOf"] = one_or_many
    kept = [route.endpoint for route in routes.routes if why_never_kept(route) is None]
    schema["$defs"]["PublicEndpoint"] = {"type": "string", "enum": sorted(kept)}
    public = {"$ref": "#/$defs/PublicEndpoint"}
    rule = schema["$defs"]["CacheRuleSection"]["properties"]["endpoint"]
    rule["anyOf"] = [public, {"type": "array", "items": public, "minItems": 1}]
