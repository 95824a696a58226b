"""Requests that the routes refuse, each with its key and before anything is queued."""
# ruff: noqa: F811 (fixtures are imported under the names they are asked for)

from __future__ import annotations

import json

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed: pip install 'videosys[serve]'")

from tests.service import CONFIG, LIMITS, client, error_of, service  # noqa: F401 (fixtures)
from videosys import load_family_config
from videosys.serve.requests import BadRequest, Checker

MISTAKES = {
    "no prompt": ({"seed": 1}, "prompt", "prompt must be text"),
    "a blank prompt": ({"prompt": " \n"}, "prompt", "not blank"),
    "a number as prompt": ({"prompt": 3}, "prompt", "must be text"),
    "a long prompt": ({"prompt": "a" * 61}, "prompt", "has 61 characters; the limit is 60"),
    "a prompt that no text is": ({"prompt": "\ud800"}, "prompt", "invalid characters"),
    "another model": (
        {"prompt": "a", "model": "sora-2"},
        "model",
        "model is 'sora-2'; this service has: 'opensora'",
    ),
    "an unknown key": ({"prompt": "a", "sed": 1}, "sed", "unknown key 'sed' (did you mean 'seed'?)"),
    "a near key": (
        {"prompt": "a", "num_inference_step": 4},
        "num_inference_step",
        "(did you mean 'num_inference_steps'?)",
    ),
    "a key of diffusers": (
        {"prompt": "a", "guidance": 4},
        "guidance",
        "unknown key 'guidance' (diffusers's name; here it is guidance_scale)",
    ),
    "a key of VideoSys": (
        {"prompt": "a", "enable_pab": True},
        "enable_pab",
        "unknown key 'enable_pab' (VideoSys's name; here it is cache: pab)",
    ),
    "a key of TeaCache in a cache": (
        {"prompt": "a", "cache": {"name": "teacache", "rel_l1_thresh": 0.1}},
        "cache",
        "cache.rel_l1_thresh: unknown key (TeaCache's name; here it is cache: {name: teacache, ",
    ),
    "a setting of the server": ({"prompt": "a", "num_gpus": 2}, "num_gpus", "(a setting of the server"),
    "a key of loading": ({"prompt": "a", "transformer": "/etc"}, "transformer", "unknown key 'transformer'"),
    "a file": ({"prompt": "a", "reference_paths": ["/etc/passwd"]}, "reference_paths", "unknown key"),
    "a file of a cache": (
        {"prompt": "a", "cache": {"name": "schedule", "file": "/etc/passwd"}},
        "cache",
        "cache.file cannot",
    ),
    "a calibration": (
        {"prompt": "a", "cache": {"name": "best", "speedup": 2, "calibration": "/x"}},
        "cache",
        "cache.calibration",
    ),
    "many videos": ({"prompt": "a", "num_videos_per_prompt": 9}, "num_videos_per_prompt", "makes one video"),
    "a size in words": ({"prompt": "a", "size": "large"}, "size", "must be WIDTHxHEIGHT"),
    "a large size": ({"prompt": "a", "size": "256x256"}, "size", "the limit is 16384 pixels"),
    "a small size": ({"prompt": "a", "size": "8x8"}, None, "the minimum is 16 pixels"),
    "many frames": ({"prompt": "a", "frames": 68}, "frames", "the limit is 60"),
    "frames that cannot be": ({"prompt": "a", "frames": 5}, "frames", "num_frames is 5"),
    "seconds that cannot be": ({"prompt": "a", "seconds": 0.5}, "seconds", "num_frames is 6"),
    "seconds above the limit": ({"prompt": "a", "seconds": 99}, "seconds", "the limit is 60"),
    "frames that are not whole": ({"prompt": "a", "frames": 1e3}, "frames", "must be a whole number above 0"),
    "a height that cannot be": ({"prompt": "a", "size": "64x99999"}, "size", "height: is 99999"),
    "a resolution beside a height": ({"prompt": "a", "resolution": "9p"}, "resolution", "cannot be combined"),
    "frames twice": ({"prompt": "a", "frames": 17, "seconds": 2}, "seconds", "set only one of"),
    "seconds without end": ({"prompt": "a", "seconds": "inf"}, "seconds", "must be a number"),
    "seconds below 0": ({"prompt": "a", "seconds": -5}, "seconds", "must be a number above 0"),
    "not a number": ({"prompt": "a", "seconds": "nan"}, "seconds", "must be a number above 0"),
    "no seconds": ({"prompt": "a", "seconds": [4]}, "seconds", "must be a number"),
    "many steps": ({"prompt": "a", "num_inference_steps": 41}, "num_inference_steps", "the limit is 40"),
    "a seed of words": ({"prompt": "a", "seed": "x"}, "seed", "seed: must be a whole number"),
    "a seed below zero": ({"prompt": "a", "seed": -1}, "seed", "seed is -1"),
    "an unknown cache": ({"prompt": "a", "cache": "teacach"}, "cache", "did you mean 'teacache'"),
    "a goal and a cache": (
        {"prompt": "a", "cache": "none", "speedup": 2},
        "cache",
        "set either cache or speedup",
    ),
    "a goal out of reach": ({"prompt": "a", "frames": 51, "speedup": 900}, "speedup", "has speedup 900"),
    "a goal within a cache": (
        {"prompt": "a", "frames": 51, "cache": {"name": "best", "speedup": 900}},
        "cache",
        "has speedup 900",
    ),
    "a device that is not here": (
        {"prompt": "a", "cache": {"name": "teacache", "device": "cuda:99"}},
        "cache",
        "cache.device is 'cuda:99'",
    ),
    "a calibration of other steps": (
        {"prompt": "a", "num_inference_steps": 6, "frames": 51, "speedup": 2},
        "num_inference_steps",
        "made with num_inference_steps 30",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_refused_with_their_key_before_anything_is_queued(client, service, name):
    body, param, message = MISTAKES[name]
    answer = client.post("/v1/videos", content=json.dumps(body), headers={"content-type": "application/json"})
    error = error_of(answer, 400)
    assert message in error["message"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert "\n" not in error["message"]
    assert service.store.counts() == {}


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"{", b"\xff", b"[" * 3000])
def test_bodies_that_are_no_requests_are_refused(client, content):
    error_of(client.post("/v1/videos", content=content), 400)
    error_of(client.post("/v1/videos", content=content, headers={"content-type": "multipart/form-data"}), 400)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ('{"prompt": "a", "seed": 1, "seed": 2}', "seed"),
        ('{"prompt": "a", "cache": {"name": 1, "name": 2}}', "name"),
    ],
)
def test_a_key_that_is_given_twice_is_refused(client, service, content, key):
    error = error_of(client.post("/v1/videos", content=content), 400)
    assert (error["message"], error["param"]) == (f"the key {key!r} is given twice", key)
    assert service.store.counts() == {}


def test_a_body_has_a_largest_length(client):
    error_of(client.post("/v1/videos", json={"prompt": "a", "negative": "x" * 5000}), 413)
    chunks = (b"x" * 1000 for _ in range(5))
    error_of(client.post("/v1/videos", content=chunks, headers={"content-type": "application/json"}), 413)


@pytest.mark.parametrize("goal", ["speedup", "min_psnr"])
def test_a_goal_without_a_calibration_for_the_service_is_named(goal):
    few_steps = Checker(load_family_config(CONFIG, None, ["num_inference_steps=4"]), LIMITS)
    with pytest.raises(BadRequest, match="made with num_inference_steps 30") as info:
        few_steps.check({"prompt": "a", goal: 2})
    assert info.value.param == goal
