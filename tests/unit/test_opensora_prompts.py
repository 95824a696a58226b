"""What a prompt says besides words: loops, and references in JSON, which need the user's leave."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from tests.goldens.load import load_json
from tests.tiny_checkpoint import build_pipeline, config_of
from videosys import OpenSoraConfig, Reference, VideoSysEngine
from videosys.models.opensora.prompt import InlineReferences, inline_references, notes, split_inline

TEXT = load_json("opensora", "text")


@pytest.mark.parametrize("case", TEXT["json_in_prompt"], ids=lambda case: case["prompt"])
def test_published_prompts_with_json(case):
    words, _ = split_inline(case["prompt"])
    given = inline_references(case["prompt"])
    assert {"prompt": words, **vars(given)} == case["result"]


@pytest.mark.parametrize(
    ("prompt", "words", "inline"),
    [
        ('red{"reference_path": "x.png"} circle', "red circle", '{"reference_path": "x.png"}'),
        ('a {b} c {"mask_strategy": "0"}', "a {b} c ", '{"mask_strategy": "0"}'),
        ('red {"reference_path": "x.png" circle', "red ", '{"reference_path": "x.png" circle'),
        ("a {b} c", "a {b} c", ""),
        ("a reference_path", "a reference_path", ""),
    ],
)
def test_words_around_the_json_stay(prompt, words, inline):
    assert split_inline(prompt) == (words, inline)


def inline(path, **more):
    return "a cross" + json.dumps({"reference_path": str(path), **more})


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (48, 32), (200, 30, 30)).save(path)
    return path


@pytest.fixture(scope="module")
def make(checkpoint):
    pipeline = build_pipeline(config_of(checkpoint), quiet=True)

    def make(*prompts, references=None, **changes):
        config = config_of(checkpoint, num_inference_steps=2, **changes)
        outputs = pipeline.generate(prompts, config, quiet=True, references=references)
        return [video for output in outputs for video in output.video]

    return make


def test_without_leave_the_json_is_left_out_and_this_is_said(make, caplog):
    # The file is not even looked at, and the list goes on.
    videos = make(inline("/no/such.png"), "a cross")
    assert torch.equal(*videos)
    assert caplog.text.count("names references in JSON, which is removed") == 1
    assert "only if prompt_references is true" in caplog.text


@pytest.mark.parametrize("batch_size", [1, 2])
def test_with_leave_each_prompt_has_its_own_references(make, picture, batch_size):
    alone = make("a cross", references=Reference(str(picture)), prompt_references=True)
    plain = make("a cross")
    videos = make(inline(picture), "a cross", prompt_references=True, batch_size=batch_size)
    for video, expected in zip(videos, alone + plain, strict=True):
        assert (video.int() - expected.int()).abs().max() <= (0 if batch_size == 1 else 1)
    assert not torch.equal(*videos)


def test_a_strategy_of_a_prompt_and_references_of_the_request(make, picture):
    second = {"mask_strategy": "0,0,0,5,1"}
    both = make(inline(picture, **second), references=Reference(str(picture)), prompt_references=True)
    expected = make("a cross", references=[Reference(str(picture)), Reference(str(picture), target=5)])
    assert all(map(torch.equal, both, expected))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ('a{"reference_path": ', "the JSON in prompt .* cannot be read"),
        ("a{'reference_path': 'a.png'}", "the JSON in prompt .* cannot be read"),
        ("a{" * 3000 + '"reference_path"', "the JSON in prompt .* cannot be read"),
        ("a" + '{"reference_path":' * 30_000, "the JSON in prompt .* cannot be read"),
        ('a{"reference_path": "a.png", "reference_path": "b.png"}', "'reference_path' is given twice"),
        ('a{"reference_path": 3}', "reference_path: must be text, got 3"),
        ('a{"reference_path": ["a.png"]}', "reference_path: must be text"),
        ('a{"reference_path": "a.png", "loop": 2}', "loop: unknown key"),
        ('a{"mask_strategy": "0"}', "names no reference_path"),
        ('a{"reference_path": " ; "}', "names no reference_path"),
        ('a{"reference_path": "/no/such.png"}', "reference '/no/such.png' is not a file"),
        ('a{"reference_path": "/dev/null", "mask_strategy": "x"}', "mask strategy 'x'"),
        ('a{"reference_path": "/dev/null", "mask_strategy": "0,4"}', "reference 4 does not exist"),
        ('{"reference_path": "/no/such.png"}', "must be text and not blank"),
    ],
)
def test_with_leave_what_is_wrong_is_said_before_any_work(make, prompt, message):
    with pytest.raises(ValueError, match=message):
        make("a cross", prompt, prompt_references=True)


def test_a_request_cannot_allow_itself_files(checkpoint):
    with VideoSysEngine(config_of(checkpoint), quiet=True) as engine:
        with pytest.raises(ValueError, match="unknown request 'prompt_references'"):
            engine.generate("a", prompt_references=True)


@pytest.mark.parametrize(
    ("prompt", "loops", "said"),
    [
        ("|0|a|1|b", 1, r"text for loop 1, but loops is 1: it is not used \(loops=2 uses all\)"),
        ("|0|a|1|b|7|c", 2, r"text for loop 7, but loops is 2: it is not used \(loops=8 uses all\)"),
        ("first |0|a|1|b", 2, "does not begin with |0|"),
        (" |0|a", 1, "does not begin with |0|"),
        ("|1|a", 2, "does not begin with |0|"),
        ("|-1|a", 2, "does not begin with |0|"),
    ],
)
def test_words_that_are_not_used_are_named(prompt, loops, said):
    (note,) = notes(prompt, loops, reads_inline=False)
    assert said.replace("\\", "") in note


@pytest.mark.parametrize("prompt", ["a cross", "|0|a|1|b", "a {curly} one", "a | b", "{} and {reference}"])
def test_other_prompts_are_not_spoken_of(prompt):
    assert notes(prompt, 2, reads_inline=False) == []


@pytest.mark.parametrize(
    "prompt", ["|0|a|1|b|1|c", "|0|a|2|b|1|c", "|0|a|x|b", "|0|a|-1|b", "|0|a|1", "|0|a|" + "9" * 5000 + "|b"]
)
def test_loop_numbers_that_cannot_be_are_refused(prompt):
    with pytest.raises(ValueError, match=r"must increase|not of the form"):
        OpenSoraConfig(loops=2).prompt_texts(prompt)


def test_unused_words_are_said_in_a_generation(make, caplog):
    make("|0|a cross|1|a ring")
    assert "text for loop 1" in caplog.text


def test_paths_of_a_prompt():
    assert InlineReferences("a.png; b.mp4;").paths == ["a.png", "b.mp4"]
