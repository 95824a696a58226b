"""The web page in a real browser. The service is real; a stand-in makes its videos, step by step as told."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import replace

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed: pip install 'videosys[serve]'")

from tests import browser as browsers
from tests import service as services
from tests.browser import SIZES, claim, finish, listening, visit
from videosys.serve.app import new_job
from videosys.serve.store import StoreAway
from videosys.tiny.words import COLOURS, PHRASES, SHAPES

PROMPT = "a large red circle moves rightward on a white background"
REFUSED = "the server responded with a status of 4"  # what Chromium says of any such answer

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def browser():
    with browsers.started() as started:
        yield started


@pytest.fixture
def service(tmp_path):
    with services.started(tmp_path, keys=()) as made:
        yield made


@pytest.fixture
def address(service):
    with listening(service) as found:
        yield found


@pytest.fixture
def expect():
    from playwright.sync_api import expect

    return expect


def ask(page, prompt=PROMPT, **fields):
    page.fill("#prompt", prompt)
    for name, value in fields.items():
        page.fill(f"#{name}", value)
    page.get_by_role("button", name="Make the video").click()


@pytest.mark.parametrize("width", SIZES)
def test_the_page_says_what_the_model_knows_and_what_speed_ups_cost(browser, address, service, expect, width):
    with visit(browser, address, width) as opened:
        page = opened.page
        page.get_by_role("button", name=PROMPT).click()
        expect(page.get_by_label("Prompt")).to_have_value(PROMPT)
        page.get_by_text("Words that this small model knows").click()
        for word in (*COLOURS, *SHAPES, *PHRASES.values()):
            expect(page.locator("#vocabulary").get_by_role("button", name=word, exact=True)).to_be_visible()
        for word in ("orange", "black", "ring", "spins", "small"):
            page.locator("#vocabulary").get_by_role("button", name=word, exact=True).click()
        text = "a small orange ring spins on a black background"
        expect(page.get_by_label("Prompt")).to_have_value(text)
        expect(page.locator("#unknown")).to_be_hidden()
        page.fill("#prompt", f"{text} and a dog")
        expect(page.locator("#unknown")).to_have_text("This small model does not know “and”, “dog”.")
        slider = page.get_by_label("Speed-up").and_(page.get_by_role("slider"))
        for place, goal in enumerate(service.about["goals"]):
            slider.fill(str(place))
            expect(page.locator("#speedup")).to_have_text(f"{goal['speedup']}×")
            expect(page.locator("#psnr")).to_contain_text(f"{goal['psnr']} dB PSNR")
            assert f"{goal['psnr']} dB" in slider.get_attribute("aria-valuetext")
        page.fill("#steps", "6")  # for which nothing was measured
        expect(slider).to_be_hidden()
        expect(page.locator("#goal-note")).to_contain_text("measured at 30 steps")
        assert (opened.overflow, opened.problems) == (0, [])


@pytest.mark.slow
@pytest.mark.parametrize("width", SIZES)
def test_a_video_from_its_prompt_to_the_one_without_cache(browser, address, service, expect, width):
    with visit(browser, address, width) as opened:
        page = opened.page
        page.get_by_role("slider").fill("4")
        ask(page, seed="3", frames="17")
        queue = page.locator("#queue > li")
        expect(queue).to_contain_text("Number 1 in the queue")
        ask(page, "a small cross", seed="4")
        expect(queue).to_have_count(2)
        job = claim(service)
        assert (job.seed, job.frames) == (3, 17)
        assert job.changes["cache"]["speedup"] == service.about["goals"][4]["speedup"]
        assert service.store.report(job, stage="denoise", step=3, steps=30, eta=12.2)
        expect(queue.first).to_contain_text("Denoising: step 3 of 30, about 13 s left")
        assert queue.first.get_by_role("progressbar").evaluate("bar => bar.value") == 9
        queue.last.get_by_role("button", name="Cancel").click()
        expect(queue).to_have_count(1)
        assert service.store.counts() == {"in_progress": 1}
        finish(service, job)
        expect(queue).to_have_count(0)
        expect(page.get_by_role("heading", name=PROMPT)).to_be_visible()
        assert players(opened, 1) == [(4, 1.4)]
        expect(page.get_by_role("img", name="16 of 30 steps computed, 14 reused")).to_be_visible()
        expect(page.locator(".bars .computed")).to_have_count(16)
        expect(page.locator(".bars .reused")).to_have_count(14)
        page.get_by_role("button", name="Make it without cache").click()
        plain = claim(service)
        expect(page.locator("#pair")).to_contain_text("Starting")
        same = {"seed": 3, "num_frames": 17, "cache": {"name": "none"}}
        assert (plain.prompt, plain.changes) == (PROMPT, same)
        finish(service, plain)
        assert players(opened, 2) == [(4, 1.4), (4, 1.4)]
        expect(page.locator("figcaption")).to_have_text(
            [re.compile("With cache"), re.compile("Without cache")]
        )
        expect(page.locator("#sheet > li")).to_have_count(2)
        assert all(opened.value("[...document.querySelectorAll('#sheet img')].map(i => i.naturalWidth > 0)"))
        assert (opened.overflow, opened.problems) == (0, [])


def players(opened, count):
    """(readyState, seconds) of the videos on the stage, when they can be played."""
    script = "[...document.querySelectorAll('#pair video')].map(v => [v.readyState, v.duration])"
    for _ in range(600):
        found = opened.value(script)
        if len(found) == count and all(ready == 4 for ready, _ in found):
            break
        opened.page.wait_for_timeout(100)
    return [(ready, round(seconds or 0, 1)) for ready, seconds in found]


@pytest.mark.slow
def test_earlier_videos_are_shown_reused_and_removed(browser, address, service, expect):
    with visit(browser, address) as opened:
        page = opened.page
        for seed in ("1", "2"):
            ask(page, seed=seed)
            finish(service, claim(service))
        sheet = page.locator("#sheet > li")
        expect(sheet).to_have_count(2)
        expect(page.locator("#facts")).to_contain_text("seed 2")
        sheet.last.get_by_role("button").press("Enter")
        expect(page.locator("#facts")).to_contain_text("seed 1")
        assert opened.value("document.activeElement.id") == "stage"
        page.get_by_role("button", name="Use these settings").click()
        expect(page.get_by_label("Seed")).to_have_value("1")
        with page.expect_download() as download:
            page.get_by_role("button", name="Download").click()
        assert download.value.path().read_bytes()[4:8] == b"ftyp"
        page.get_by_role("button", name="Remove").click()
        expect(sheet).to_have_count(2)  # it asks first
        page.get_by_role("button", name="Remove it for good?").click()
        expect(sheet).to_have_count(1)
        expect(page.locator("#facts")).to_contain_text("seed 2")
        assert service.store.counts() == {"completed": 1}
        assert opened.problems == []


MISTAKES = {
    "a blank prompt": ({"prompt": " "}, "prompt", "prompt must be text and not blank"),
    "a long prompt": ({"prompt": "a" * 61}, "prompt", "the limit is 60"),
    "frames that cannot be": ({"frames": "5"}, "frames", "num_frames is 5"),
    "frames in words": ({"frames": "many"}, "frames", "it must be a whole number above 0"),
    "a size": ({"size": "large"}, "size", "it must be WIDTHxHEIGHT in pixels"),
    "steps": ({"steps": "41"}, "steps", "the limit is 40"),
    "a seed": ({"seed": "-1"}, "seed", "seed"),
}


@pytest.mark.slow
def test_a_mistake_is_one_line_at_its_field(browser, address, service, expect):
    with visit(browser, address, 390) as opened:
        page = opened.page
        for name, (fields, field, message) in MISTAKES.items():
            ask(page, **({"size": "", "frames": "", "steps": "", "seed": ""} | fields))
            expect(page.get_by_role("alert"), name).to_contain_text(message)
            expect(page.locator(f"#{field}"), name).to_have_attribute("aria-invalid", "true")
            expect(page.locator(f"#{field}"), name).to_be_focused()
            expect(page.locator("[aria-invalid]"), name).to_have_count(1)
            page.locator("#prompt").press("End")
            expect(page.get_by_role("alert"), name).to_contain_text(message)
            page.locator("#prompt").press("a")  # it is about what was asked before
            expect(page.get_by_role("alert"), name).to_be_empty()
            expect(page.locator("[aria-invalid]"), name).to_have_count(0)
        assert service.store.counts() == {}
        ask(page, size="", frames="", steps="", seed="")
        expect(page.get_by_role("alert")).to_be_empty()
        expect(page.get_by_role("alert")).to_have_css("background-color", "rgba(0, 0, 0, 0)")  # no empty bar
        job = claim(service)
        service.store.finish(job, error="the video is too large")
        expect(page.locator("#queue .failed")).to_contain_text("the video is too large")
        page.get_by_role("button", name=f"Remove: {PROMPT}").click()
        expect(page.locator("#queue > li")).to_have_count(0)
        assert [line for line in opened.problems if REFUSED not in line] == []
        assert opened.overflow == 0


@pytest.mark.slow
def test_what_others_write_is_shown_as_text(browser, address, service, expect):
    prompt = "<img src=x onerror=document.title='x'>"
    with visit(browser, address, 390) as opened:
        ask(opened.page, prompt)
        expect(opened.page.locator("#queue .prompt")).to_have_text(prompt)
        finish(service, claim(service))
        expect(opened.page.get_by_role("heading", level=2, name=prompt)).to_be_visible()
        ask(opened.page, "x" * 60)
        finish(service, claim(service))
        expect(opened.page.get_by_role("heading", level=2, name="x" * 60)).to_be_visible()
        assert (opened.overflow, opened.problems) == (0, [])


@pytest.mark.slow
def test_a_key_is_asked_for_where_the_service_has_some(browser, tmp_path, expect):
    with services.started(tmp_path) as service, listening(service) as address:
        with visit(browser, address) as opened:
            field = opened.page.get_by_label("API key")
            expect(field).to_be_focused()
            expect(opened.page.get_by_role("alert")).to_contain_text("a valid API key is required")
            field.fill(services.KEYS[0])
            field.press("Tab")
            expect(opened.page.get_by_role("alert")).to_be_empty()
            ask(opened.page)
            finish(service, claim(service))
            assert players(opened, 1)[0][0] == 4
            assert services.KEYS[0] not in opened.page.content()


@pytest.mark.slow
def test_a_service_that_is_away_for_a_while_is_waited_for(browser, service, expect):
    with ExitStack() as stack:
        with listening(service) as address:
            page = stack.enter_context(visit(browser, address)).page
            expect(page.locator("#about")).to_have_text("opensora")
        expect(page.locator("#state")).to_contain_text("No answer from the service")
        page.get_by_role("button", name="Make the video").scroll_into_view_if_needed()
        expect(page.locator("#state")).to_be_in_viewport()
        ask(page)
        expect(page.get_by_role("alert")).to_have_text("No answer from the service; try again.")
        stack.enter_context(listening(service, int(address.rpartition(":")[2])))
        expect(page.locator("#state")).to_be_empty()
        ask(page)
        expect(page.locator("#queue > li")).to_have_count(1)


@pytest.mark.slow
def test_a_service_without_its_database_is_waited_for(browser, address, service, expect, monkeypatch):
    with visit(browser, address) as opened:
        page = opened.page
        expect(page.locator("#about")).to_have_text("opensora")
        for name in ("page", "earlier"):
            monkeypatch.setattr(service.store, name, away)
        expect(page.locator("#state")).to_contain_text("the job database cannot be used now")
        ask(page)
        expect(page.get_by_role("alert")).to_contain_text("the job database cannot be used now")
        monkeypatch.undo()
        expect(page.locator("#state")).to_be_empty()
        ask(page)
        expect(page.locator("#queue > li")).to_have_count(1)
        expect(page.get_by_role("alert")).to_be_empty()


def away(*_):
    raise StoreAway("connection refused")


@pytest.mark.slow
@pytest.mark.parametrize("width", SIZES)
def test_a_long_queue_and_long_texts_push_nothing_out_of_sight(browser, address, service, expect, width):
    text = " ".join(["x" * 40, "and so on"] * 45)
    first = new_job("everybody", service.checker.check({"prompt": "a"}), None, "")
    for number in range(30):
        service.store.add(replace(first, id=f"video_{number:032x}", prompt=text))
    service.store.finish(claim(service), error="the video is too large")
    finish(service, claim(service))
    with visit(browser, address, width) as opened:
        page = opened.page
        expect(page.locator("#queue > li")).to_have_count(29)
        expect(page.locator("#queue > li").first).to_contain_text("the video is too large")
        expect(page.locator("#shown h2")).to_be_visible()
        page.fill("#prompt", text)
        for name, most in {"#unknown": 120, "#queue": 480, "#shown h2": 120}.items():
            assert page.locator(name).bounding_box()["height"] <= most, name
        assert (opened.overflow, opened.problems) == (0, [])


@pytest.mark.slow
def test_the_keyboard_is_enough_and_keeps_its_place(browser, address, service, expect):
    with visit(browser, address) as opened:
        page = opened.page
        expect(page.locator("#about")).to_have_text("opensora")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the video")).to_be_focused()
        page.keyboard.press("Tab")
        page.keyboard.type(PROMPT)
        page.keyboard.press("Control+Enter")
        cancel = page.get_by_role("button", name=f"Cancel: {PROMPT}")
        cancel.focus()
        job = claim(service)
        for step in (1, 2, 3):  # the list is drawn again, and the focus stays
            service.store.report(job, stage="denoise", step=step, steps=30)
            expect(page.locator("#queue")).to_contain_text(f"step {step} of 30")
            expect(cancel).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#queue > li")).to_have_count(0)
        page.get_by_label("None", exact=True).check()
        page.keyboard.press("ArrowLeft")
        expect(page.get_by_label("As configured")).to_be_checked()
        ring = "getComputedStyle(document.querySelector('#as-configured + span')).outlineStyle"
        assert opened.value(ring) == "solid"
        assert opened.problems == []


CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const linear = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((value) => linear(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const style = (element) => getComputedStyle(element);
  const grounds = (one) => one ? [...grounds(one.parentElement), style(one).backgroundColor] : [];
  const kinds = 'h1, h2, p, label, button, summary, legend, output, .note, figcaption *';
  const shown = [...document.querySelectorAll(kinds)].filter((one) => one.textContent.trim());
  return shown.filter((one) => one.checkVisibility()).map((one) => {
    const both = [light(grounds(one)), light([...grounds(one), style(one).color])];
    return [(Math.max(...both) + 0.05) / (Math.min(...both) + 0.05), one.textContent.trim().slice(0, 40)];
  });
}"""
UNNAMED = """() => {
  const controls = 'button, input, textarea, video, progress, [role=img]';
  const named = (one) => one.getAttribute('aria-label') || one.labels?.length || one.textContent.trim();
  return [...document.querySelectorAll(controls)].filter((one) => !named(one)).map((one) => one.outerHTML);
}"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read_and_all_controls_have_names(browser, address, service, expect, scheme):
    with visit(browser, address, scheme=scheme) as opened:
        ask(opened.page)
        finish(service, claim(service))
        ask(opened.page, frames="5")
        expect(opened.page.locator("#pair video")).to_have_count(1)
        expect(opened.page.get_by_role("alert")).to_contain_text("num_frames is 5")
        opened.page.mouse.move(0, 0)
        weak = [found for found in opened.value(CONTRAST) if found[0] < 4.5]
        assert weak == []
        assert opened.value(UNNAMED) == []
