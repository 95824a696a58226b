"""The routes, without a server process and without workers: what is accepted and answered."""
# ruff: noqa: F811 (fixtures are imported under the names they are asked for)

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed: pip install -e '.[serve]'")

from tests import service as services
from tests.service import CONFIG, KEYS, LIMITS, client, client_of, error_of, service  # noqa: F401 (fixtures)
from videosys import load_family_config
from videosys.serve.files import VARIANTS, path_of, public, without_files
from videosys.serve.requests import BadRequest, changed, local_fields, without_paths
from videosys.tiny.words import unknown_words

PROMPT = "a large red circle moves rightward on a white background"


@pytest.fixture
def checker():
    return services.checker()


def finish(service, tmp_path, name):
    """Does what a worker does, with files of a few bytes."""
    job = service.store.claim("w")
    assert job.id == name
    for variant in VARIANTS:
        path_of(tmp_path, job, variant).write_bytes(b"0123456789")
    service.store.finish(job, computed="computed 2 of 6 steps")
    return job


def test_a_request_is_accepted_and_its_job_told(client, service):
    answer = client.post("/v1/videos", json={"prompt": PROMPT, "size": "48x32", "frames": 17, "seed": 5})
    assert answer.status_code == 200, answer.text
    video = answer.json()
    assert video["id"].startswith("video_")
    assert {
        key: video[key] for key in ("object", "status", "model", "size", "frames", "seed", "progress")
    } == {
        "object": "video",
        "status": "queued",
        "model": "opensora",
        "size": "48x32",
        "frames": 17,
        "seed": 5,
        "progress": 0,
    }
    assert client.get(f"/v1/videos/{video['id']}").json()["queue_position"] == 1
    job = service.store.claim("w")
    service.store.report(job, stage="denoise", step=3, steps=6, eta=2.04)
    running = client.get(f"/v1/videos/{video['id']}").json()
    assert (running["status"], running["stage"], running["step"], running["of"]) == (
        "in_progress",
        "denoise",
        3,
        6,
    )
    assert (running["eta"], running["progress"]) == (2.0, 45)
    service.store.finish(job, error="one line")
    failed = client.get(f"/v1/videos/{video['id']}").json()
    assert (failed["status"], failed["error"]) == (
        "failed",
        {"code": "generation_failed", "message": "one line"},
    )


def test_a_form_asks_for_the_same_as_json(client, service):
    form = {
        "prompt": "7",
        "seed": "5",
        "seconds": "1.4",
        "cache[name]": "interval",
        "cache[every]": "3",
        "aes": "null",
    }
    answer = client.post("/v1/videos", data=form)
    assert answer.status_code == 200, answer.text
    plain = {
        "prompt": "7",
        "seed": 5,
        "seconds": 1.4,
        "cache": {"name": "interval", "every": 3},
        "aes": None,
    }
    assert client.post("/v1/videos", json=plain).status_code == 200
    one, two = service.store.claim("w"), service.store.claim("w")
    assert one.changes == two.changes
    assert (one.prompt, one.frames, one.changes["aes"]) == ("7", 17, None)
    config = changed(load_family_config(CONFIG), one.changes)
    assert (config.cache.every, config.seed, config.num_frames) == (3, 5, 17)


def test_a_seed_that_is_not_given_is_drawn_and_kept(client, service):
    seed = client.post("/v1/videos", json={"prompt": "a"}).json()["seed"]
    assert service.store.claim("w").changes["seed"] == seed == load_family_config(CONFIG).seed or seed >= 0


def test_every_route_of_the_api_needs_a_key(service):
    for key in (None, "wrong-wrong-wrong-wrong"):
        client = client_of(service, key)
        paths = ["/v1/videos", "/v1/videos/x", "/v1/videos/x/content", "/v1/models", "/v1/models/opensora"]
        answers = [client.get(path) for path in paths]
        answers += [client.post("/v1/videos", json={"prompt": "a"}), client.delete("/v1/videos/x")]
        assert {error_of(answer, 401)["code"] for answer in answers} == {"invalid_api_key"}
    assert service.store.counts() == {}


def test_a_key_sees_its_own_videos_only(client, service):
    name = client.post("/v1/videos", json={"prompt": "a"}).json()["id"]
    other = client_of(service, KEYS[1])
    for answer in (other.get(f"/v1/videos/{name}"), other.delete(f"/v1/videos/{name}")):
        assert error_of(answer, 404)["code"] == "not_found"
    error_of(other.get(f"/v1/videos/{name}/content"), 404)
    assert other.get("/v1/videos").json()["data"] == []
    assert [video["id"] for video in client.get("/v1/videos").json()["data"]] == [name]


def test_pages_of_other_sites_can_ask_for_nothing(client, service):
    for headers in ({"origin": "http://evil.example"}, {"host": "evil.example"}):
        error_of(client.post("/v1/videos", data={"prompt": "a"}, headers=headers), 403)
    assert service.store.counts() == {}


def test_the_queue_and_the_requests_of_a_minute_are_limited(client, service):
    for _ in range(LIMITS.queue):
        assert client.post("/v1/videos", json={"prompt": "a"}).status_code == 200
    full = client.post("/v1/videos", json={"prompt": "a"})
    assert error_of(full, 429)["code"] == "queue_full"
    assert full.headers["retry-after"]
    for _ in range(LIMITS.per_minute - LIMITS.queue - 1):
        client.post("/v1/videos", json={"prompt": " "})
    often = client.post("/v1/videos", json={"prompt": "a"})
    assert error_of(often, 429)["code"] == "rate_limit_exceeded"
    assert client.get("/v1/videos").status_code == 200
    assert service.store.counts() == {"queued": LIMITS.queue}


def test_an_idempotency_key_makes_one_job(client):
    headers = {"Idempotency-Key": "once"}
    names = {client.post("/v1/videos", json={"prompt": "a"}, headers=headers).json()["id"] for _ in range(3)}
    assert len(names) == 1
    other = client.post("/v1/videos", json={"prompt": "b"}, headers=headers)
    assert error_of(other, 422)["code"] == "idempotency_mismatch"
    forms = {
        client.post("/v1/videos", files={"prompt": (None, "a")}, headers={"Idempotency-Key": "form"}).json()[
            "id"
        ]
        for _ in range(2)
    }
    assert len(forms) == 1  # though the boundary of each is another
    for key in ("x" * 201, ""):
        answer = client.post("/v1/videos", json={"prompt": "a"}, headers={"Idempotency-Key": key})
        assert error_of(answer, 400)["param"] == "Idempotency-Key"


def test_a_request_is_repeated_where_the_limits_are_reached(client):
    headers = {"Idempotency-Key": "first"}
    first = client.post("/v1/videos", json={"prompt": "a"}, headers=headers).json()["id"]
    statuses = {client.post("/v1/videos", json={"prompt": "a"}).status_code for _ in range(LIMITS.per_minute)}
    assert statuses == {200, 429}
    again = client.post("/v1/videos", json={"prompt": "a"}, headers=headers)
    assert (again.status_code, again.json()["id"]) == (200, first)


def test_lists_have_pages(client):
    names = [client.post("/v1/videos", json={"prompt": str(n)}).json()["id"] for n in range(3)]
    page = client.get("/v1/videos", params={"limit": 2}).json()
    assert [item["id"] for item in page["data"]] == names[:0:-1]
    assert (page["has_more"], page["last_id"]) == (True, names[1])
    rest = client.get("/v1/videos", params={"limit": 2, "after": names[1]}).json()
    assert ([item["id"] for item in rest["data"]], rest["has_more"]) == ([names[0]], False)
    assert [item["id"] for item in client.get("/v1/videos?order=asc").json()["data"]] == names
    for query in ("limit=0", "limit=101", "limit=x", "limit=\u0663", "limit=", "limit=-1", "order=up"):
        name = query.partition("=")[0]
        error = error_of(client.get(f"/v1/videos?{query}"), 400)
        assert (error["param"], error["message"].startswith(f"{name} is ")) == (name, True)


def test_content_is_sent_whole_and_in_ranges(client, service, tmp_path):
    name = client.post("/v1/videos", json={"prompt": "a"}).json()["id"]
    assert error_of(client.get(f"/v1/videos/{name}/content"), 404)["code"] == "not_ready"
    finish(service, tmp_path, name)
    for variant, (_, kind) in VARIANTS.items():
        answer = client.get(f"/v1/videos/{name}/content", params={"variant": variant})
        assert (answer.content, answer.headers["content-type"]) == (b"0123456789", kind)
    for asked, status, content in [
        ("bytes=0-3", 206, b"0123"),
        ("bytes=-2", 206, b"89"),
        ("bytes=20-", 416, None),
    ]:
        answer = client.get(f"/v1/videos/{name}/content", headers={"range": asked})
        assert answer.status_code == status
        assert content is None or answer.content == content
    error_of(client.get(f"/v1/videos/{name}/content?variant=weights"), 400)
    error_of(client.get("/v1/videos/..%2f..%2fetc%2fpasswd/content"), 404)


def test_what_is_deleted_is_gone(client, service, tmp_path):
    names = [client.post("/v1/videos", json={"prompt": "a"}).json()["id"] for _ in range(3)]
    finish(service, tmp_path, names[0])
    running = service.store.claim("w")
    for name in names:
        assert client.delete(f"/v1/videos/{name}").json() == {
            "id": name,
            "object": "video.deleted",
            "deleted": True,
        }
        error_of(client.get(f"/v1/videos/{name}"), 404)
        error_of(client.delete(f"/v1/videos/{name}"), 404)
    assert not service.store.report(running, step=1)  # so its worker stops
    assert [
        path.name for path in tmp_path.iterdir() if path.suffix != ".sqlite" and "sqlite" not in path.name
    ] == []


def test_models_health_and_metrics(client, service):
    assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["opensora"]
    assert client.get("/v1/models/opensora").json()["object"] == "model"
    error_of(client.get("/v1/models/sora-2"), 404)
    client.post("/v1/videos", json={"prompt": "a"})
    assert client.get("/health").json() == {"status": "ok", "workers": 1, "jobs": {"queued": 1}}
    text = client.get("/metrics").text
    assert 'videosys_jobs{status="queued"} 1.0' in text
    assert 'videosys_http_requests_total{method="POST",route="/v1/videos",status="200"} 1.0' in text
    service.workers.alive = 0
    assert client.get("/health").status_code == 503


def test_metrics_count_failures_and_keep_few_labels(client, service, monkeypatch):
    monkeypatch.setattr(service.store, "get", lambda *_: 1 / 0)
    for name in ("x", "y"):
        error_of(client.get(f"/v1/videos/video_{ord(name):032x}"), 500)
        error_of(client.request(f"METHOD{name}", f"/{name}"), 404)
    text = client.get("/metrics").text
    assert 'route="/v1/videos/{name}",status="500"} 2.0' in text
    assert 'method="other",route="none",status="404"} 2.0' in text
    assert "METHOD" not in text


def test_no_answer_names_a_folder_of_the_server(client, service, tmp_path, monkeypatch):
    paths = [
        "/",
        "/nope",
        "/v1/videos/x",
        "/v1/videos?limit=x",
        "/v1/models",
        "/health",
        "/openapi.json",
        "/metrics",
    ]
    texts = [client.get(path).text for path in paths]
    texts += [
        client.post("/v1/videos", json={"prompt": "a", "frames": 51, "speedup": goal}).text
        for goal in (900, "x")
    ]
    monkeypatch.setattr(service.store, "get", lambda *_: shutil.rmtree(tmp_path / "absent"))
    broken = client.get(f"/v1/videos/video_{0:032x}")
    assert error_of(broken, 500)["message"] == "internal error; see the log of the service"
    for text in [*texts, broken.text]:
        assert str(tmp_path) not in text
        assert "videosys/tiny" not in text
        assert str(Path(__file__).parents[2]) not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/models/x/calibration.json: no setting", "calibration.json: no setting"),
        ("reference 'C:\\data\\a.png' is not a file", "reference 'a.png' is not a file"),
        ("in ~/models/ and ../x/y.json", "in ... and y.json"),
        ("a\n  b", "a b"),
        ("the video would be 8 x 8", "the video would be 8 x 8"),
    ],
)
def test_paths_are_cut_to_their_last_part(text, shown):
    assert without_paths(text) == shown


def test_the_sidecar_says_nothing_of_folders(checker):
    config = replace(checker.config, cache=replace(checker.config.cache))
    shown = public(config)
    assert shown["num_inference_steps"] == config.num_inference_steps
    assert not {"transformer", "vae", "text_encoder", "device", "reference_paths"} & {*shown}


def test_a_video_has_the_settings_that_were_asked_for_without_files_of_the_server(client, service):
    body = {"prompt": "a", "seed": 5, "frames": 17, "speedup": 2.0}
    settings = client.post("/v1/videos", json=body).json()["settings"]
    goal = {"name": "best", "speedup": 2.0, "min_psnr": None, "device": "auto"}
    assert settings["cache"].items() >= goal.items()
    assert settings == {"seed": 5, "num_frames": 17, "cache": settings["cache"]}
    again = client.post("/v1/videos", json={"prompt": "a", **settings})
    assert again.json()["settings"] == settings
    video = service.store.claim("w")
    assert client.get(f"/v1/videos/{video.id}").json()["elapsed"] is None
    service.store.finish(video, computed="")
    assert client.get(f"/v1/videos/{video.id}").json()["elapsed"] >= 0


def test_every_field_that_names_a_file_is_left_out(checker):
    classes = {*checker.family.caches.values(), type(checker.config)}
    local = {name for cls in classes for name in local_fields(cls if isinstance(cls, type) else type(cls))}
    assert local
    assert without_files(dict.fromkeys(local, "x")) == {}


def test_a_goal_takes_the_calibration_of_the_service(checker):
    request = checker.check({"prompt": "a", "speedup": 2.0, "frames": 51})
    assert request.changes["cache"]["name"] == "best"
    assert request.config.cache.speedup == 2.0
    with pytest.raises(BadRequest, match=r"^calibration.json: was made with num_inference_steps 30, this"):
        checker.check({"prompt": "a", "speedup": 2.0, "num_inference_steps": 6})


def test_the_page_comes_with_the_service_and_nothing_else(client):
    for address, kind in [("/", "text/html"), ("/page.js", "javascript"), ("/page.css", "text/css")]:
        answer = client.get(address)
        assert answer.status_code == 200
        assert kind in answer.headers["content-type"]
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"https?://(?!www\.w3\.org)", client.get("/").text + client.get("/page.js").text)
    for address in ("/index.html", "/page/index.html", "/pages.py", "/..%2fapp.py"):
        error_of(client.get(address), 404)


def test_the_model_says_what_the_page_offers(client, checker):
    (card,) = client.get("/v1/models").json()["data"]
    config = checker.config
    assert card["defaults"]["frames"] == config.output_frames
    assert "circle" in card["vocabulary"]
    assert all(unknown_words(text) == [] for text in card["examples"])
    speedups, qualities = zip(*((goal["speedup"], goal["psnr"]) for goal in card["goals"]))
    assert list(speedups) == sorted(speedups)
    known = [quality for quality in qualities if quality is not None]
    assert known == sorted(known, reverse=True)
    assert len(known) >= 3
    for goal in card["goals"]:
        checker.check({"prompt": "a", "speedup": goal["speedup"]})
