"""Strict mode: a schema put in the subset of JSON Schema that a provider's constrained decoding takes, or
why not.

What is only a bound (minLength, uniqueItems, a default) and not in the subset is told in the description
instead: the model may overstep it, and the engine, which checks the real schema, then says so. What would
change the set of possible shapes (free-form objects, tuples, conditions) is a problem.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

Schema = dict[str, Any]

_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_NUMBER = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_BOUNDS: dict[str, tuple[str, ...]] = {
    "string": ("format", "pattern", "minLength", "maxLength", "contentEncoding", "contentMediaType"),
    "number": _NUMBER,
    "integer": _NUMBER,
    "array": ("minItems", "maxItems", "uniqueItems", "contains", "minContains", "maxContains"),
    "object": ("minProperties", "maxProperties", "propertyNames", "dependentRequired"),
}
_SHAPES = ("type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "properties", "items")
_SCALARS = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_CONDITIONS = (
    "patternProperties",
    "prefixItems",
    "if",
    "then",
    "else",
    "dependentSchemas",
    "dependencies",
    "unevaluatedItems",
    "$dynamicRef",
)
# Constrained decoding knows no look-around, back reference or word boundary.
_HARD_PATTERN = re.compile(r"\(\?[=!<P]|\\[1-9bBk]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One provider's subset. optional: properties need not be required; limits are per request."""

    name: str
    formats: frozenset[str]
    bounds: frozenset[str]
    optional: bool
    recursive: bool
    type_lists: bool
    max_properties: int | None = None
    max_depth: int | None = None
    max_enum: int | None = None
    max_optional: int | None = None
    max_unions: int | None = None


OPENAI = Dialect(
    name="OpenAI",
    formats=_FORMATS,
    bounds=frozenset({*_NUMBER, "pattern", "minItems", "maxItems"}),
    optional=False,
    recursive=True,
    type_lists=True,
    max_properties=5000,
    max_depth=10,
    max_enum=1000,
)
"""Structured Outputs guide, supported schemas; minLength and maxLength work there but not at Azure."""

ANTHROPIC = Dialect(
    name="Anthropic",
    formats=_FORMATS | {"uri"},
    bounds=frozenset(),
    optional=True,
    recursive=False,
    type_lists=False,
    max_optional=24,
    max_unions=16,
)
"""Structured outputs guide, JSON Schema limitations, and what the anthropic package's transform_schema
keeps.
"""


def strict_schema(parameters: Mapping[str, Any], dialect: Dialect) -> tuple[Schema, list[str]]:
    """The strict form of a tool's parameters, and the sentences that say why there is none (empty: there is
    one).
    """
    return _Strict(parameters, dialect).run()


@dataclass(slots=True)
class _Strict:
    root: Mapping[str, Any]
    dialect: Dialect
    problems: list[str] = field(default_factory=list)
    converted: dict[str, Schema] = field(default_factory=dict)
    under_way: list[str] = field(default_factory=list)
    count: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("properties", "enum", "optional", "unions"), 0)
    )

    def run(self) -> tuple[Schema, list[str]]:
        left_out = ("$schema", "$id", "$defs", "definitions")
        root = {key: value for key, value in self.root.items() if key not in left_out}
        if isinstance(root.get("$ref"), str) and isinstance(target := self.target(root.pop("$ref")), Mapping):
            root = {**target, **root}
        for keyword in ("anyOf", "oneOf", "enum", "const", "not"):
            if keyword in root:
                self.problem("", f"{keyword} stands at the root")
        out = self.schema({"type": "object", **root}, "", 0)
        if out.get("type") != "object":
            self.problem("", "the root is no object")
        for ref, schema in self.converted.items():
            holder, name = ref[2:].split("/", 1)
            out.setdefault(holder, {})[name] = schema
        for what, most in (
            ("properties", self.dialect.max_properties),
            ("enum", self.dialect.max_enum),
            ("optional", self.dialect.max_optional),
            ("unions", self.dialect.max_unions),
        ):
            if most is not None and self.count[what] > most:
                self.problem("", f"{self.count[what]} {_COUNTED[what]}, {self.dialect.name} takes {most} in a request")
        return out, self.problems

    def problem(self, at: str, what: str) -> None:
        sentence = f"{at or 'the schema'}: {what}"
        if sentence not in self.problems:
            self.problems.append(sentence)

    def schema(self, node: Any, at: str, depth: int) -> Schema:
        if not isinstance(node, Mapping) or not any(keyword in node for keyword in _SHAPES):
            self.problem(at, "any JSON value is allowed here; say its type")
            return {}
        for keyword in _CONDITIONS:
            if keyword in node:
                self.problem(f"{at}/{keyword}", "this keyword has no strict form")
        if isinstance(node.get("allOf"), list):
            return self.all_of(node, at, depth)
        if "$ref" in node:
            return self.reference(node, at, depth)
        options = node.get("anyOf", node.get("oneOf"))
        if isinstance(options, list):
            return self.any_of(node, options, at, depth)
        types = self.types(node)
        if "enum" in node or "const" in node:
            return self.literal(node, types, at)
        if len(types) == 1:
            return self.described(node, self.typed(node, types[0], at, depth), types)
        self.count["unions"] += 1
        if self.dialect.type_lists and not {"object", "array"} & set(types):
            kept = {k: v for t in types for k, v in self.typed(node, t, at, depth).items() if k != "type"}
            return self.described(node, {"type": types, **kept}, types)
        return self.described(node, {"anyOf": [self.typed(node, t, at, depth) for t in types]}, types)

    def types(self, node: Mapping[str, Any]) -> list[str]:
        declared = node.get("type")
        if declared is not None:
            return [declared] if isinstance(declared, str) else list(declared)
        if "enum" in node or "const" in node:
            values = node["enum"] if "enum" in node else [node["const"]]
            return list(dict.fromkeys(_SCALARS.get(type(value), "object") for value in values))
        return ["object" if "properties" in node else "array"]

    def all_of(self, node: Mapping[str, Any], at: str, depth: int) -> Schema:
        if len(node["allOf"]) != 1 or not isinstance(node["allOf"][0], Mapping):
            self.problem(f"{at}/allOf", "several schemas at once have no strict form")
            return {}
        rest = {key: value for key, value in node.items() if key != "allOf"}
        if set(rest) & set(node["allOf"][0]) - {"description", "title", "default", "type"}:
            self.problem(f"{at}/allOf", "what it says again beside it has no strict form")
        return self.schema({**node["allOf"][0], **rest}, at, depth)

    def any_of(self, node: Mapping[str, Any], options: list[Any], at: str, depth: int) -> Schema:
        keyword = "anyOf" if "anyOf" in node else "oneOf"
        if any(node.get(key) for key in ("properties", "items", "required")) or {"anyOf", "oneOf"} <= set(node):
            self.problem(f"{at}/{keyword}", "what stands beside a choice has no strict form")
        self.count["unions"] += 1
        kept = [self.schema(option, f"{at}/{keyword}/{i}", depth) for i, option in enumerate(options)]
        return self.described(node, {"anyOf": kept}, [])

    def literal(self, node: Mapping[str, Any], types: list[str], at: str) -> Schema:
        values = list(node["enum"]) if "enum" in node else [node["const"]]
        if any(type(value) not in _SCALARS for value in values):
            self.problem(at, "an enum may hold only text, numbers, true, false and null")
        self.count["enum"] += len(values)
        out: Schema = {"type": types[0] if len(types) == 1 else types} if self.dialect.type_lists else {}
        out.update({"enum": values} if "enum" in node else {"const": values[0]})
        return self.described(node, out, [])

    def typed(self, node: Mapping[str, Any], type_: str, at: str, depth: int) -> Schema:
        out: Schema = {"type": type_}
        if type_ == "object":
            out = self.object(node, at, depth)
        elif type_ == "array":
            out["items"] = self.schema(node.get("items", {}), f"{at}/items", depth)
        out.update({key: node[key] for key in _BOUNDS.get(type_, ()) if key in node and self.keeps(key, node[key])})
        return out

    def keeps(self, keyword: str, value: Any) -> bool:
        if keyword == "format":
            return value in self.dialect.formats
        if keyword == "pattern" and _HARD_PATTERN.search(str(value)):
            return False
        return keyword in self.dialect.bounds or (keyword == "minItems" and value in (0, 1))

    def object(self, node: Mapping[str, Any], at: str, depth: int) -> Schema:
        properties: Mapping[str, Any] = node.get("properties") or {}
        rest = [node[key] for key in ("additionalProperties", "unevaluatedProperties") if key in node]
        if any(value is not False for value in rest):
            self.problem(at, "keys that are not named have no strict form")
        elif not properties and not rest and at:
            self.problem(at, "an object must name its properties")
        required = [name for name in node.get("required", ()) if name in properties]
        for name in node.get("required", ()):
            if name not in properties:
                self.problem(at, f"{name!r} is required but not described")
        if self.dialect.max_depth is not None and depth >= self.dialect.max_depth:
            self.problem(at, f"nested deeper than the {self.dialect.max_depth} levels {self.dialect.name} takes")
        kept: dict[str, Any] = {}
        for name, value in properties.items():
            where = f"{at}/properties/{name}"
            kept[name] = self.schema(value, where, depth + 1)
            if name not in required and not self.dialect.optional:
                kept[name] = self.nullable(kept[name], where, depth)
        self.count["properties"] += len(kept)
        self.count["optional"] += len(kept) - len(required)
        names = required if self.dialect.optional else list(kept)
        return {"type": "object", "properties": kept, "required": names, "additionalProperties": False}

    def nullable(self, schema: Schema, at: str, depth: int) -> Schema:
        """null for "absent": the engine takes it so for arguments, but not for what lies inside them."""
        if self.takes_null(schema):
            return schema
        if depth > 0:
            self.problem(at, "it is optional inside another value, where null does not stand for absent")
        if "enum" in schema:
            types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
            return {**schema, "type": [*types, "null"], "enum": [*schema["enum"], None]}
        if "anyOf" in schema:
            return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
        types = schema.get("type")
        if isinstance(types, list):
            return {**schema, "type": [*types, "null"]}
        if types in (None, "object", "array") or "const" in schema:
            inner = {key: value for key, value in schema.items() if key != "description"}
            said = {"description": schema["description"]} if "description" in schema else {}
            return {"anyOf": [inner, {"type": "null"}], **said}
        return {**schema, "type": [types, "null"]}

    def takes_null(self, schema: Schema) -> bool:
        if "anyOf" in schema:
            return any(self.takes_null(option) for option in schema["anyOf"])
        if "$ref" in schema:
            return schema["$ref"] not in self.under_way and self.takes_null(self.converted.get(schema["$ref"], {}))
        if "enum" in schema or "const" in schema:
            return None in schema.get("enum", [schema.get("const", 0)])
        types = schema.get("type")
        return types == "null" or (isinstance(types, list) and "null" in types)

    def target(self, ref: Any) -> Any:
        found = re.fullmatch(r"#/(\$defs|definitions)/([^/]+)", str(ref))
        holder = self.root.get(found[1]) if found else None
        return holder.get(found[2]) if found and isinstance(holder, Mapping) else None

    def reference(self, node: Mapping[str, Any], at: str, depth: int) -> Schema:
        ref, target = node["$ref"], self.target(node["$ref"])
        if not isinstance(target, Mapping):
            self.problem(at, f"the reference {str(ref)[:80]!r} is not to a definition of this schema")
            return {}
        if ref in self.under_way and not self.dialect.recursive:
            self.problem(at, f"{self.dialect.name} takes no schema that holds itself")
            return {}
        if any(keyword in node for keyword in _SHAPES if keyword != "$ref"):
            self.problem(at, "what stands beside a reference has no strict form")
        said = self.described(node, {}, [])
        if said and not self.dialect.recursive:
            return {**self.below(ref, target, at, depth), **said}
        if ref not in self.converted and ref not in self.under_way:
            self.converted[ref] = self.below(ref, target, ref[1:], depth)
        # Nothing may stand beside "$ref", so what is said there goes around it.
        return {"anyOf": [{"$ref": ref}], **said} if said else {"$ref": ref}

    def below(self, ref: str, target: Mapping[str, Any], at: str, depth: int) -> Schema:
        self.under_way.append(ref)
        out = self.schema(target, at, max(depth, 1))
        self.under_way.remove(ref)
        return out

    def described(self, node: Mapping[str, Any], out: Schema, types: list[str]) -> Schema:
        """The schema with its description, which also tells the bounds the schema itself may not."""
        bounds = [keyword for type_ in types for keyword in _BOUNDS.get(type_, ())]
        told = [key for key in dict.fromkeys([*bounds, "not", "default"]) if key in node]
        told = [key for key in told if not self.keeps(key, node[key]) and (key, node[key]) != ("default", None)]
        lost = ", ".join(f"{key}: {orjson.dumps(node[key]).decode()}" for key in told)
        parts = [str(node["description"])] if node.get("description") else []
        text = " ".join([*parts, f"({lost})"] if lost else parts)
        return {**out, "description": text} if text else out


_COUNTED = {
    "properties": "properties",
    "enum": "enum values",
    "optional": "optional properties",
    "unions": "choices between types",
}
