"""A custom resource definition of Kubernetes, and whether an object is one that a cluster with it would take.

The schema of a definition (`openAPIV3Schema`) is JSON Schema of an older draft with words of Kubernetes' own. It is
translated once: unknown fields are refused, as `kubectl --validate=strict` does, unless
`x-kubernetes-preserve-unknown-fields` keeps them. Sources: "Extend the Kubernetes API with CustomResourceDefinitions"
in Kubernetes' documents (structural schemas, pruning, defaulting, field validation). Rules in CEL
(`x-kubernetes-validations`) are not evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema

KIND = "CustomResourceDefinition"
PRESERVE, INT_OR_STRING = "x-kubernetes-preserve-unknown-fields", "x-kubernetes-int-or-string"
EMBEDDED, MAP_KEYS = "x-kubernetes-embedded-resource", "x-kubernetes-list-map-keys"
LIST_TYPE = "x-kubernetes-list-type"
BOUNDS = {"int32": 2**31, "int64": 2**63}
COPIED = (
    *("enum", "pattern", "minLength", "maxLength", "minItems", "maxItems", "uniqueItems"),
    *("minProperties", "maxProperties", "multipleOf"),
)
"""Words that mean in JSON Schema what they mean in a definition."""
OF_EVERY_OBJECT = {
    "apiVersion": {"type": "string"},
    "kind": {"type": "string"},
    "metadata": {"type": "object"},
}
"""Fields of every object, which a definition need not name; what is in `metadata` is no matter of it."""


def _different_keys(validator: Any, keys: list[list[Any]], items: Any, schema: Any) -> Iterator[Any]:
    """No two items of a list have the same values of the keys. keys: pairs of name and default."""
    if not validator.is_type(items, "array"):
        return
    seen = []
    for item in items:
        found = [item.get(name, default) for name, default in keys] if isinstance(item, dict) else None
        if found is not None and found in seen:
            yield jsonschema.ValidationError(f"two items with {found}")
        seen.append(found)


_Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {MAP_KEYS: _different_keys})


def check_by_definition(content: dict[str, Any], definition: dict[str, Any]) -> None:
    """Check an object by the definition of its kind.

    Args:
        content: the object.
        definition: a CustomResourceDefinition, `apiextensions.k8s.io/v1`.

    Raises:
        jsonschema.ValidationError: A cluster with this definition would refuse it.
    """
    spec = definition["spec"]
    served = {f"{spec['group']}/{one['name']}": one for one in spec["versions"] if one["served"]}
    version = served.get(content.get("apiVersion", ""))
    if version is None or content.get("kind") != spec["names"]["kind"]:
        raise jsonschema.ValidationError(f"is no {spec['names']['kind']} of {', '.join(served)}")
    schema = translated({**version["schema"]["openAPIV3Schema"], EMBEDDED: True})
    _Validator(schema).validate(content)


def translated(schema: dict[str, Any], strict: bool = True) -> dict[str, Any]:
    """A schema of a definition as JSON Schema (draft 2020-12).

    Args:
        schema: of one value.
        strict: whether unknown fields are refused; those within `allOf`, `anyOf`, `oneOf` and `not` only add rules.
    """
    made = {word: schema[word] for word in COPIED if word in schema} | _bounds_of(schema)
    for word in ("allOf", "anyOf", "oneOf"):
        if word in schema:
            made[word] = [*made.get(word, ()), *(translated(part, strict=False) for part in schema[word])]
    if "not" in schema:
        made["not"] = translated(schema["not"], strict=False)
    made |= _type_of(schema) | _items_of(schema, strict) | _fields_of(schema, strict)
    return {"anyOf": [{"type": "null"}, made]} if schema.get("nullable") else made


def _type_of(schema: dict[str, Any]) -> dict[str, Any]:
    if schema.get(INT_OR_STRING):
        return {"type": ["integer", "string"]}
    return {"type": schema["type"]} if "type" in schema else {}


def _bounds_of(schema: dict[str, Any]) -> dict[str, Any]:
    """Bounds of a number. `exclusiveMinimum` says of `minimum` whether it is allowed itself."""
    made: dict[str, Any] = {}
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if bound in schema:
            made[exclusive if schema.get(exclusive) else bound] = schema[bound]
    if schema.get("type") == "integer" and schema.get("format") in BOUNDS:
        limit = BOUNDS[schema["format"]]
        made["allOf"] = [{"minimum": -limit, "maximum": limit - 1}]
    return made


def _items_of(schema: dict[str, Any], strict: bool) -> dict[str, Any]:
    if "items" not in schema:
        return {}
    made: dict[str, Any] = {"items": translated(schema["items"], strict)}
    if schema.get(LIST_TYPE) == "set":
        made["uniqueItems"] = True
    if schema.get(LIST_TYPE) == "map":
        fields = schema["items"].get("properties", {})
        made[MAP_KEYS] = [[name, fields.get(name, {}).get("default")] for name in schema[MAP_KEYS]]
    return made


def _fields_of(schema: dict[str, Any], strict: bool) -> dict[str, Any]:
    """Fields of an object. What is required and has a default need not be there."""
    fields = dict(schema.get("properties", {}))
    made: dict[str, Any] = {}
    if needed := [name for name in schema.get("required", ()) if "default" not in fields.get(name, {})]:
        made["required"] = needed
    more = schema.get("additionalProperties")
    if isinstance(more, dict):
        made["additionalProperties"] = translated(more, strict)
    elif strict and schema.get("type") == "object" and not schema.get(PRESERVE) and not more:
        made["additionalProperties"] = False
    parts = {name: translated(part, strict) for name, part in fields.items()}
    made["properties"] = parts | (OF_EVERY_OBJECT if schema.get(EMBEDDED) else {})
    return made
