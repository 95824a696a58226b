"""Converts the `name: description` lines of this project's docstrings to a list on the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

FIELD = re.compile(r"^([a-z_]\w*(?:, [a-z_]\w*)*): ", re.MULTILINE)


class Fields(griffe.Extension):
    """Puts each field of a docstring on a separate line."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = FIELD.sub(r"\n- `\1`: ", obj.docstring.value)
