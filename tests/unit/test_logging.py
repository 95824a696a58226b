"""Log lines and progress bars."""

from __future__ import annotations

import io
import json
import logging

import pytest

from videosys.utils.logging import configure_logging, get_logger, log
from videosys.utils.progress import progress


@pytest.fixture(autouse=True)
def _restored():
    logger = get_logger()
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def lines(**options) -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    return configure_logging(stream=stream, **options), stream


def test_names():
    assert get_logger().name == "videosys"
    assert get_logger("hub").name == "videosys.hub"
    assert get_logger("videosys.models.opensora.transformer").name == "videosys.models.opensora.transformer"


def test_lines_are_key_value():
    _, stream = lines()
    log(get_logger("hub"), "loaded", keys=12, seconds=0.123456789, path="a b", empty="", quote='"')
    text = stream.getvalue()
    assert text.endswith(
        'info videosys.hub: loaded keys=12 seconds=0.123457 path="a b" empty="" quote="\\""\n'
    )
    assert text[2] == text[5] == ":"


def test_json_lines():
    _, stream = lines(json_lines=True)
    log(get_logger("hub"), "loaded", keys=12, path="猫", other=object, message="not this one")
    get_logger().warning("two\nlines")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["message"], first["keys"], first["path"], first["logger"]) == (
        "loaded",
        12,
        "猫",
        "videosys.hub",
    )
    assert second["message"] == "two\nlines"
    assert second["level"] == "warning"


@pytest.mark.parametrize("json_lines", [False, True])
def test_exceptions_keep_their_trace(json_lines):
    logger, stream = lines(json_lines=json_lines)
    try:
        raise ValueError("the reason")
    except ValueError:
        logger.exception("failed")
    assert "Traceback" in stream.getvalue()
    assert "the reason" in stream.getvalue()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["info", "error"]),
        ({"quiet": True}, ["error"]),
        ({"verbose": True}, ["debug", "info", "error"]),
    ],
)
def test_levels(options, expected):
    logger, stream = lines(**options)
    logger.debug("debug")
    logger.info("info")
    logger.error("error")
    assert [line.split(": ")[1] for line in stream.getvalue().splitlines()] == expected


def test_the_last_configuration_counts():
    _, first = lines()
    logger, second = lines()
    logger.info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1


def test_bars_count_and_quiet_bars_are_silent(capsys):
    assert list(progress([1, 2, 3], "steps")) == [1, 2, 3]
    assert "steps: 100%" in capsys.readouterr().err
    with progress(total=5, description="load", quiet=True) as bar:
        bar.update()
    assert list(progress([1, 2], quiet=True)) == [1, 2]
    assert capsys.readouterr().err == ""
