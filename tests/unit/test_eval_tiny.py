"""Which methods the evaluation of the tiny checkpoints takes by itself, and what its page says of twins."""

from __future__ import annotations

import pytest

from tests.conftest import with_negative_prompt
from tests.evaluation import latte, open_sora_plan, opensora, results, runner, sections, tiny, write
from tests.tiny_checkpoint import WRITERS
from videosys import FAMILIES, TeaCacheConfig, load_config
from videosys.tiny import config as tiny_config

PRESETS = ["teacache_slow", "teacache_fast", "teacache_naive", "pab_slow", "pab_fast"]
STUDIES = [
    (opensora.STUDY, "v1_2", "opensora/transformer", ""),
    (latte.STUDY, "latte_1", "latte/transformer", ""),
    (open_sora_plan.STUDY, "v110", "open_sora_plan/v110", "version: v110"),
    (open_sora_plan.STUDY, "v120", "open_sora_plan/v120", "version: v120"),
]


@pytest.fixture
def examples(tmp_path, monkeypatch):
    """A folder of examples with two files for every tiny checkpoint: its settings, and what was found."""
    for study, version, name, more in STUDIES:
        folder = tmp_path / study.name
        folder.mkdir(exist_ok=True)
        text = f"transformer: bundled:{name}\n{more}\n"
        (folder / f"tiny_{version}.yaml").write_text(f"{text}cache: {{name: teacache_slow}}\n")
        path = folder / ("tiny_calibrated.yaml" if version != "v110" else "tiny_v110_calibrated.yaml")
        path.write_text(f"{text}cache: {{name: best, speedup: 2.0}}\n")
    monkeypatch.setattr(runner, "EXAMPLES", tmp_path)
    return tmp_path


@pytest.mark.parametrize(("study", "version", "name", "more"), STUDIES)
def test_what_was_calibrated_for_a_checkpoint_is_taken(examples, study, version, name, more):
    *_, last = tiny.usual(study, version)
    expected = "tiny_v110_calibrated.yaml" if version == "v110" else "tiny_calibrated.yaml"
    assert last == str(examples / study.name / expected)
    assert tiny.usual(study, version)[:2] == ["base", "reference"]


def test_a_file_named_by_its_checkpoint_alone_gives_a_method_another_name(examples):
    path = examples / "open_sora_plan" / "tiny_v120.yaml"
    text = path.read_text().replace("name: teacache_slow", "name: teacache, calibration: beside")
    path.write_text(text)
    methods = tiny.usual(open_sora_plan.STUDY, "v120")
    assert methods[-1] == f"teacache_calibrated={path}"
    path.write_text(text.replace("calibration: beside", "threshold: 0.7"))
    assert tiny.usual(open_sora_plan.STUDY, "v120")[-1] == f"teacache_tiny_v120={path}"


@pytest.mark.parametrize(("study", "version", "name", "more"), STUDIES)
def test_no_preset_is_made_twice(examples, study, version, name, more, capsys):
    methods = tiny.usual(study, version)
    ready = [name for name in PRESETS if name in methods]
    left = {"v110": set(), "v120": {"teacache_naive"}}.get(version, {"teacache_naive"})
    assert {*PRESETS} - {*ready} == left
    assert "pab" not in methods
    said = "skipped: teacache_naive is teacache_slow with open_sora_plan_v120\n"
    assert (said in capsys.readouterr().out) == (version == "v120")


def test_presets_with_other_thresholds_are_others():
    config = tiny_config("open_sora_plan_v120")
    presets = {"a": TeaCacheConfig(threshold=0.1), "b": TeaCacheConfig(threshold=0.2)}
    assert tiny.distinct(config, presets) == ["a", "b"]


def result(name: str, cache: dict, asked: dict) -> results.Result:
    return results.Result(name, {"a.mp4": {"cache": asked, "text_tokens": 3}}, None, False, cache=cache)


def test_twins_and_missing_coefficients_are_said(tmp_path):
    for name, value in {"base": 1, "slow": 2, "naive": 2, "pab": 3, "late": 2}.items():
        (tmp_path / name).mkdir()
        write(tmp_path / name / "a.mp4", value=value)
    naive, open_ = {"coefficients": [1.0, 0.0]}, {"coefficients": None}
    made = (
        result("base", {"name": "none"}, {"name": "none"}),
        result("slow", naive, open_),
        result("naive", naive, naive),
        result("pab", {}, {}),
        result("late", {}, {}),
    )
    blocks = sections.doubts(results.Model("m", tmp_path, made, ("cpu",)))
    words = [block.words for block in blocks]
    assert words[0] == "These methods give identical videos, byte for byte: slow, naive, late."
    assert words[1].startswith("No coefficients are published for this model: slow compares")


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_a_family_names_its_files_and_its_tiny_checkpoints(family):
    assert {family.tiny_name(version) for version in family.published} == family.tiny.keys()
    for version, (path, _) in runner.Study.of(family.name).versions.items():
        config = load_config(family.config, path)
        assert getattr(config, "version", version) == version


def test_every_tiny_checkpoint_has_a_small_one_of_random_weights():
    assert {*WRITERS} == {name for family in FAMILIES.values() for name in family.tiny}
    assert with_negative_prompt() == ["latte", "open_sora_plan_v110", "open_sora_plan_v120"]
