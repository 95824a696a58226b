"""Keys, rates, bodies and sites."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed: pip install -e '.[serve]'")

from videosys.serve.answers import ApiError
from videosys.serve.bodies import nested
from videosys.serve.guards import Body, Rate, check_site
from videosys.serve.requests import BadRequest
from videosys.serve.settings import EVERYBODY, KEYS_VARIABLE, Keys, Limits, read_keys
from videosys.utils.typed import Text

KEY, OTHER = "k" * 20, "o" * 20


def test_a_key_has_an_owner_that_does_not_show_it():
    keys = Keys([KEY, OTHER])
    owners = {keys.owner(f"Bearer {key}") for key in (KEY, OTHER)}
    assert len(owners) == 2
    assert all(len(owner) == 16 and KEY not in owner for owner in owners)
    assert keys.owner(f"bearer  {KEY} ") == keys.owner(f"Bearer {KEY}")


@pytest.mark.parametrize(
    "header",
    ["", KEY, f"Basic {KEY}", "Bearer ", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer \udcff", "Bearer é"],
)
def test_other_keys_have_none(header):
    assert Keys([KEY]).owner(header) is None


def test_without_keys_everybody_is_one_owner():
    assert Keys([]).owner("Bearer whatever") == EVERYBODY
    assert Keys([]).is_open


@pytest.mark.parametrize("key", ["short", "with a blank in it", "umlaut-äöü-äöü-äöü-", ""])
def test_keys_that_could_be_guessed_are_refused_without_being_shown(key):
    with pytest.raises(ValueError, match="API key 2 of 2 must have 16 or more ASCII characters") as info:
        Keys([KEY, key])
    assert not key or key not in str(info.value)


def test_keys_are_read_from_a_file_or_the_environment(tmp_path, monkeypatch):
    path = tmp_path / "keys"
    path.write_text(f"# ours\n{KEY}\n\n {OTHER} \n")
    assert read_keys(path).owner(f"Bearer {OTHER}")
    monkeypatch.setenv(KEYS_VARIABLE, f"{KEY}, {OTHER},")
    assert read_keys(None).owner(f"Bearer {OTHER}")
    monkeypatch.delenv(KEYS_VARIABLE)
    assert read_keys(None).is_open
    path.write_text("# none\n")
    with pytest.raises(ValueError, match="contains no keys"):
        read_keys(path)
    with pytest.raises(ValueError, match=r"--keys .*absent: no such file"):
        read_keys(tmp_path / "absent")
    with pytest.raises(ValueError, match="it is a device, not a file"):
        read_keys(Path("/dev/zero"))


@pytest.mark.parametrize("name", ["queue", "prompt", "pixels", "frames", "steps", "per_minute", "body"])
def test_limits_are_above_zero(name):
    with pytest.raises(ValueError, match=f"{name} is 0; it must be above 0"):
        Limits(**{name: 0})


def test_a_rate_is_counted_for_each_owner_over_a_minute():
    now = [0.0]
    rate = Rate(2, lambda: now[0])
    rate.check("a")
    now[0] = 20.0
    rate.check("a")
    rate.check("b")
    with pytest.raises(ApiError) as info:
        rate.check("a")
    assert (info.value.status, info.value.headers) == (429, {"Retry-After": "40"})
    now[0] = 60.0
    rate.check("a")
    with pytest.raises(ApiError):
        rate.check("a")


def send_body(chunks, most, length=None):
    """(bytes the application got, the status of another answer)"""
    sent, received = [], []

    async def app(scope, receive, send):
        while True:
            message = await receive()
            received.append(message["body"])
            if not message["more_body"]:
                return

    messages = [{"body": chunk, "more_body": True} for chunk in chunks] + [{"body": b"", "more_body": False}]
    pending = iter(messages)

    async def receive():
        return {"type": "http.request", **next(pending)}

    async def send(message):
        sent.append(message)

    headers = [] if length is None else [(b"content-length", length)]
    scope = {"type": "http", "headers": headers}
    asyncio.run(Body(app, most)(scope, receive, send))
    return b"".join(received), sent[0]["status"] if sent else None


def test_long_bodies_are_refused_also_without_their_length():
    assert send_body([b"abc", b"de"], 5) == (b"abcde", None)
    assert send_body([b"abc"], 5, b"6") == (b"", 413)
    assert send_body([b"abc"], 5, b"-1") == (b"", 413)
    with pytest.raises(ApiError, match="the limit for a request is 5 bytes") as info:
        send_body([b"abc", b"def"], 5)
    assert info.value.status == 413


@pytest.mark.parametrize(
    ("host", "headers", "is_fine"),
    [
        ("127.0.0.1", {"host": "127.0.0.1:8000"}, True),
        ("127.0.0.1", {"host": "localhost:8000", "origin": "http://localhost:8000"}, True),
        ("127.0.0.1", {"host": "[::1]:8000"}, True),
        ("127.0.0.1", {"host": "evil.example"}, False),
        ("127.0.0.1", {}, False),
        ("127.0.0.1", {"host": "[::1"}, False),
        ("127.0.0.1", {"host": "127.0.0.1:8000", "origin": "http://["}, False),
        ("0.0.0.0", {"host": "[", "origin": "http://["}, False),
        ("127.0.0.1", {"host": "127.0.0.1:8000", "origin": "http://evil.example"}, False),
        ("127.0.0.1", {"host": "127.0.0.1:8000", "origin": "null"}, False),
        ("0.0.0.0", {"host": "videos.example"}, True),
        ("0.0.0.0", {"host": "videos.example", "origin": "https://evil.example"}, False),
    ],
)
def test_pages_of_other_sites_are_refused(host, headers, is_fine):
    if is_fine:
        check_site(host, headers)
        return
    with pytest.raises(ApiError) as info:
        check_site(host, headers)
    assert info.value.status == 403


def test_forms_hold_mappings_lists_and_values_as_typed():
    body = nested(
        [
            ("prompt", "3"),
            ("seed", "7"),
            ("cache[name]", "interval"),
            ("cache[interval]", "2"),
            ("x[]", "1"),
            ("x[]", "b"),
        ]
    )
    assert body == {
        "prompt": "3",
        "seed": "7",
        "cache": {"name": "interval", "interval": "2"},
        "x": ["1", "b"],
    }
    assert all(isinstance(body[key], Text) for key in ("prompt", "seed"))
    assert (body["seed"].parsed, body["x"][1].parsed) == (7, "b")


@pytest.mark.parametrize(
    "items",
    [
        [("a", "1"), ("a", "2")],
        [("a[b]", "1"), ("a", "2")],
        [("a", "1"), ("a[b]", "2")],
        [("a[]", "1"), ("a", "2")],
        [("a[b", "1")],
        [("[b]", "1")],
        [("a[b][c][d][e]", "1")],
        [("", "1")],
    ],
)
def test_keys_that_say_two_things_are_refused(items):
    with pytest.raises(BadRequest):
        nested(items)
