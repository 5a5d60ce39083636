"""The OpenAPI document of a server: its routes, with the fields and labels of the model that it serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrkd import __version__
from lrkd.data.types import ITEM_FIELDS

if TYPE_CHECKING:
    from lrkd.serve.service import Service

_INTRODUCTION = """Judges how well items match a query, with a student model that reasons in a latent space.
A bad item fails alone: its result has `error` in place of scores. The status is 200 if any item was scored.
Strings hold no control characters but tab and line breaks. `503` with `Retry-After` means: later, or elsewhere."""

_REFUSALS = {
    "400": "Not JSON that this server reads: not UTF-8, a repeated key, NaN, nested too deep.",
    "401": "The key is missing or wrong.",
    "408": "The body took too long to arrive.",
    "413": "The body is too large, or has too many items.",
    "415": "The body is not declared as plain application/json.",
    "422": "The body as a whole is wrong (then it has `error`), or no item could be scored (then `results`).",
    "500": "The server's fault; its log says how.",
    "503": "No room now, or shutting down.",
    "504": "Accepted, but not scored in time.",
}


def openapi(service: Service) -> dict[str, Any]:
    """OpenAPI 3.1, in plain types."""
    key: dict[str, Any] = {"security": [{"key": []}]} if service.needs_key else {}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "lrkd", "version": __version__, "description": _INTRODUCTION},
        "paths": {
            "/score": {"post": _post("Score pairs", "ScoreRequest", _score_example(service)) | key},
            "/rank": {"post": _post("Rank items for a query, best first", "RankRequest", _rank_example(service)) | key},
            "/about": {"get": _get("The model's labels, fields and limits") | key},
            "/health": {"get": _get("Whether the process is alive")},
            "/ready": {"get": _get("Whether requests are taken now", unready=True)},
            "/metrics": {"get": _get("Counters for Prometheus", "text/plain") | key},
        },
        "components": {"schemas": _schemas(service)},
    }
    if service.needs_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document


def _post(summary: str, body: str, example: dict[str, Any]) -> dict[str, Any]:
    refusals = {status: {"description": text, "content": _content("Refusal")} for status, text in _REFUSALS.items()}
    both = {"schema": {"anyOf": [_ref("Refusal"), _ref("Results")]}}
    for status in ("422", "500"):
        refusals[status]["content"] = {"application/json": both}
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(body), "example": example}}},
        "responses": {"200": {"description": "At least one item was scored", "content": _content("Results")}}
        | refusals,
    }


def _get(summary: str, media_type: str = "application/json", *, unready: bool = False) -> dict[str, Any]:
    responses = {"200": {"description": "So it is", "content": {media_type: {}}}}
    if unready:
        responses["503"] = {"description": "Not now; `status` says why", "content": {media_type: {}}}
    return {"summary": summary, "responses": responses}


def _schemas(service: Service) -> dict[str, Any]:
    limits, labels = service.limits, list(service.model.label_set.labels)
    text = {"type": "string", "maxLength": limits.characters}
    fields = {name: _field(name, text, read=name in service.model.fields) for name in ITEM_FIELDS}
    explain = {
        "type": "integer",
        "minimum": 0,
        "maximum": limits.neighbours if service.model.index is not None else 0,
        "default": 0,
        "description": "How many of the nearest teacher rationales to add, of every perspective",
    }

    def several(name: str) -> dict[str, Any]:
        return {"type": "array", "minItems": 1, "maxItems": limits.items, "items": _ref(name)}

    probability = {"type": "number", "minimum": 0, "maximum": 1}
    return {
        "Item": _object(fields),
        "Pair": _object({"query": text, **fields}, required=["query"]),
        "ScoreRequest": _object({"pairs": several("Pair"), "explain": explain}, required=["pairs"]),
        "RankRequest": _object(
            {"query": text, "items": several("Item"), "explain": explain}, required=["query", "items"]
        ),
        "Results": _object(
            {"results": {"type": "array", "items": {"anyOf": [_ref("Result"), _ref("ItemError")]}}},
            required=["results"],
        ),
        "Result": _object(
            {
                "index": _described("integer", "The item's place in the request, from 0"),
                "label": {"enum": labels, "description": "The most probable label"},
                "gain": _described("number", "The expected gain; /rank sorts by it"),
                "probabilities": _object(dict.fromkeys(labels, probability), required=labels),
                "tokens_cut": _described("integer", "Tokens of the pair that the model did not see"),
                "explanations": {"type": "array", "items": _ref("Explanation")},
            },
            required=["index", "label", "gain", "probabilities", "tokens_cut"],
        ),
        "ItemError": _object(
            {"index": {"type": "integer"}, "error": _error("field", "The field at fault")}, required=["index", "error"]
        ),
        "Explanation": _explanation(labels),
        "Refusal": _object({"error": _error("where", "The place in the body")}, required=["error"]),
    }


def _explanation(labels: list[str]) -> dict[str, Any]:
    about = {"query": {"type": "string"}, "title": {"type": "string"}, "label": {"enum": [*labels, None]}}
    properties = {
        "perspective": {"type": "string"},
        "similarity": _described("number", "Cosine of the rationale to the latent"),
        "rationale": {"type": "string"},
        "verdict": _described("string", "What the teacher concluded"),
        "about": _object(about, required=list(about)) | {"description": "The pair that it was written about"},
    }
    return _object(properties, required=list(properties)) | {
        "description": "A teacher's rationale about another pair, the nearest in training; not the model's own reasons"
    }


def _field(name: str, text: dict[str, Any], *, read: bool) -> dict[str, Any]:
    several = {"type": "array", "items": text}
    kinds = [text, {"type": "null"}, *([several] if name == "category" else [])]
    return {"anyOf": kinds, "description": "Read by the model" if read else "Taken, but not read by this model"}


def _error(place: str, description: str) -> dict[str, Any]:
    where = {"type": ["string", "null"], "description": description}
    return _object({place: where, "message": {"type": "string"}}, required=[place, "message"])


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _described(kind: str, description: str) -> dict[str, Any]:
    return {"type": kind, "description": description}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": _ref(name)}}


def _rank_example(service: Service) -> dict[str, Any]:
    examples = service.model.examples
    return dict(examples[0]) if examples else {"query": "red mug", "items": [{"title": "Mug, red"}]}


def _score_example(service: Service) -> dict[str, Any]:
    example = _rank_example(service)
    return {"pairs": [{"query": example["query"], **item} for item in example["items"]]}
