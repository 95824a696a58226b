"""Docstrings as this project writes them: lines `name: what it is` become a list on the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

FIELD = re.compile(r"^([a-z_]\w*(?:, [a-z_]\w*)*): ", re.MULTILINE)


class Fields(griffe.Extension):
    """Sets each field of a docstring on a line of its own."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = FIELD.sub(r"\n- `\1`: ", obj.docstring.value)
