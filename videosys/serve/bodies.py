"""Parses the body of a request into a mapping: JSON, or a form as sent by the openai client."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request

from videosys.serve.requests import BadRequest
from videosys.utils.reading import DuplicateKey, parse_json
from videosys.utils.typed import Text

KEY = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
MOST_FIELDS, DEEPEST = 100, 4


async def read_body(request: Request) -> tuple[dict[str, Any], bytes]:
    """(the parsed body, bytes that are equal for equal bodies). BadRequest for another content type."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    raw = await request.body()
    if kind in FORMS:
        async with request.form(max_fields=MOST_FIELDS, max_files=1) as form:
            body = nested(form.multi_items())
        return body, json.dumps(body, sort_keys=True).encode()  # a form's boundary differs in each request
    try:
        body = parse_json(raw)
    except DuplicateKey as error:
        raise BadRequest(str(error), error.key[:80]) from None
    except ValueError:
        raise BadRequest("the body must be JSON or a form") from None
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    return body, raw


def nested(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The nested values of a form: `cache[name]` is an entry of a mapping, `x[]` an entry of a list.

    Values are `Text`: a text field uses them unchanged, other fields parse them as JSON.
    """
    body: dict[str, Any] = {}
    for name, value in items:
        if isinstance(value, UploadFile):
            raise BadRequest(f"{name} is a file; files are not accepted", name)
        match = KEY.fullmatch(name)
        parts = match and [match[1], *re.findall(r"\[([^\[\]]*)\]", match[2])]
        if not parts or len(parts) > DEEPEST:
            raise BadRequest(f"{name[:80]!r} is not a valid form key", name[:80])
        put(body, parts, typed(value), name)
    return body


def put(target: dict[str, Any], parts: list[str], value: Any, name: str) -> None:
    """Store a value in `target`. BadRequest if the key is already set, or used as another kind of value."""
    is_list = parts[-1] == ""
    for part in parts[:-2] if is_list else parts[:-1]:
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            raise BadRequest(f"{name!r} is given in two ways", name)
    last = parts[-2] if is_list else parts[-1]
    if is_list and isinstance(target.setdefault(last, []), list):
        target[last].append(value)
    elif is_list or last in target:
        raise BadRequest(f"{name!r} is given twice", name)
    else:
        target[last] = value


def typed(value: str) -> Text:
    try:
        return Text(value, parse_json(value.encode()))
    except ValueError:
        return Text(value, value)
