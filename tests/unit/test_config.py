"""load_config: defaults, then a file, then overrides, and one clear error for each mistake."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from videosys.config import config_to_dict, load_config


@dataclass(frozen=True)
class NoCache:
    pass


@dataclass(frozen=True)
class Tea:
    threshold: float = 0.1
    coefficients: tuple[float, ...] = (1.0, 0.0)
    forecast: Literal["hold", "linear"] = "hold"

    def __post_init__(self) -> None:
        if self.threshold < 0:
            raise ValueError(f"threshold must be 0 or more, got {self.threshold}")


@dataclass(frozen=True)
class Pyramid:
    spatial: int = 2
    ranges: dict[int, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Vae:
    micro_frames: int | None = None
    tile: tuple[int, int] = (64, 64)


REGISTRY = {"none": NoCache, "teacache": Tea, "pab": Pyramid, "linear": Tea(0.5, forecast="linear")}


@dataclass(frozen=True)
class Config:
    prompt: str = "a red circle"
    prompts: str | list[str] | None = None
    resolution: str | tuple[int, int] = "240p"
    seed: int | None = None
    steps: int = field(default=30, metadata={"aliases": ("num_sampling_steps",)})
    guidance: float = 7.0
    quiet: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    output: Path = Path("outputs")
    extra: Any = None
    vae: Vae = Vae()
    second_vae: Vae | None = None
    cache: NoCache | Tea | Pyramid = field(default=Tea(threshold=0.3), metadata={"registry": REGISTRY})


@dataclass(frozen=True)
class Presets:
    cache: Tea = field(default=Tea(), metadata={"registry": {"slow": Tea(0.1), "fast": Tea(0.2)}})


@dataclass(frozen=True)
class Required:
    source: str
    cache: NoCache | Tea = field(metadata={"registry": REGISTRY})


def write(folder: Path, text: str, name: str = "some.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def from_yaml(folder: Path, text: str, *overrides: str) -> Config:
    return load_config(Config, write(folder, text), overrides)


def test_without_anything_the_defaults_come_back():
    assert load_config(Config) == Config()


def test_file_then_overrides_win(tmp_path):
    made = from_yaml(
        tmp_path, "steps: 10\nguidance: 3\nvae: {tile: [8, 16]}\n", "steps=4", "vae.micro_frames=2"
    )
    assert made == Config(steps=4, guidance=3.0, vae=Vae(micro_frames=2, tile=(8, 16)))
    assert type(made.guidance) is float


def test_the_last_override_of_a_key_wins():
    assert load_config(Config, overrides=["steps=1", "steps=2"]).steps == 2


@pytest.mark.parametrize("text", ["", "# only a comment\n", "{}"])
def test_an_empty_file_changes_nothing(tmp_path, text):
    assert from_yaml(tmp_path, text) == Config()


@pytest.mark.parametrize(
    ("override", "name", "expected"),
    [
        ("prompt=a: b, [c] {d} ${e} 'f' \"g\" # h = i", "prompt", "a: b, [c] {d} ${e} 'f' \"g\" # h = i"),
        ("prompt=", "prompt", ""),
        ("prompt=null", "prompt", "null"),
        ("prompt=1e3", "prompt", "1e3"),
        ("prompt=two\nlines", "prompt", "two\nlines"),
        ("prompts=[one, two]", "prompts", ["one", "two"]),
        ("prompts=a: b", "prompts", "a: b"),
        ("prompts=null", "prompts", None),
        ("prompts=[half", "prompts", "[half"),
        ("resolution=480p", "resolution", "480p"),
        ("resolution=[240, 426]", "resolution", (240, 426)),
        ("seed=null", "seed", None),
        ("seed=", "seed", None),
        ("seed=0", "seed", 0),
        ("guidance=1", "guidance", 1.0),
        ("guidance=1e-3", "guidance", 0.001),
        ("quiet=true", "quiet", True),
        ("dtype=bfloat16", "dtype", "bfloat16"),
        ("output=a/b c.mp4", "output", Path("a/b c.mp4")),
        ("extra={a: [1, x]}", "extra", {"a": [1, "x"]}),
        ("second_vae.micro_frames=3", "second_vae", Vae(micro_frames=3)),
        ("second_vae={tile: [1, 2]}", "second_vae", Vae(tile=(1, 2))),
        ("second_vae=null", "second_vae", None),
    ],
)
def test_override_values(override, name, expected):
    value = getattr(load_config(Config, overrides=[override]), name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cache: teacache", Tea()),
        ("cache: linear", Tea(threshold=0.5, forecast="linear")),
        ("cache: {name: linear, threshold: 1}", Tea(threshold=1.0, forecast="linear")),
        ("cache: none", NoCache()),
        ("cache: null", NoCache()),
        ("cache: {name: teacache, threshold: 0.2}", Tea(threshold=0.2)),
        ("cache: {name: pab, ranges: {3: [1, 2]}}", Pyramid(ranges={3: (1, 2)})),
        ("cache: {forecast: linear}", Tea(threshold=0.3, forecast="linear")),
    ],
)
def test_a_name_picks_the_class_of_a_union(tmp_path, text, expected):
    assert from_yaml(tmp_path, text).cache == expected


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["cache.threshold=0.2"], Tea(threshold=0.2, forecast="linear")),
        (["cache=none"], NoCache()),
        (["cache=teacache"], Tea()),
        (["cache.name=pab"], Pyramid()),
        (["cache=pab", "cache.spatial=5"], Pyramid(spatial=5)),
        (["cache.spatial=5", "cache.name=pab"], Pyramid(spatial=5)),
        (["cache={name: teacache, threshold: 1}"], Tea(threshold=1.0)),
        (["cache={name: teacache}", "cache.threshold=1"], Tea(threshold=1.0)),
        (["cache.threshold=0.2", "cache=none"], NoCache()),
    ],
)
def test_overrides_of_a_union(tmp_path, overrides, expected):
    text = "cache: {name: teacache, threshold: 0.4, forecast: linear}"
    assert from_yaml(tmp_path, text, *overrides).cache == expected


def test_a_shorthand_in_the_file_takes_overrides(tmp_path):
    assert from_yaml(tmp_path, "cache: teacache", "cache.threshold=0.2").cache == Tea(threshold=0.2)


def test_an_old_name_is_read_with_a_warning(tmp_path, caplog):
    assert from_yaml(tmp_path, "num_sampling_steps: 7").steps == 7
    assert "num_sampling_steps is now called steps" in caplog.text


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_an_old_name_beside_the_new_one_is_named(tmp_path, order):
    lines = ["num_sampling_steps: 7", "steps: 8"][order]
    with pytest.raises(ValueError, match="num_sampling_steps: is the old name of 'steps', which is also"):
        from_yaml(tmp_path, "\n".join(lines))


def test_an_override_by_the_new_name_wins_over_the_old_one(tmp_path):
    path = write(tmp_path, "num_sampling_steps: 7")
    assert load_config(Config, path, ["steps=8"]).steps == 8


def test_a_python_file_is_the_base_for_overrides(tmp_path):
    source = (
        f"from {__name__} import Config, Tea\nconfig = Config(steps=5, cache=Tea(0.6, forecast='linear'))\n"
    )
    path = write(tmp_path, source, "some.py")
    assert load_config(Config, path) == Config(steps=5, cache=Tea(0.6, forecast="linear"))
    made = load_config(Config, path, ["cache.threshold=0.2", "seed=1"])
    assert made == Config(steps=5, seed=1, cache=Tea(0.2, forecast="linear"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1", "must set `config` to a Config, got NoneType"),
        ("config = 3", "must set `config` to a Config, got int"),
        ("config = (", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError"),
        ("import sys\nsys.exit(0)", "SystemExit: 0"),
    ],
)
def test_a_wrong_python_file_is_one_error(tmp_path, source, message):
    with pytest.raises(ValueError, match=r"some\.py: ") as caught:
        load_config(Config, write(tmp_path, source, "some.py"))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stepz: 3", ["stepz: unknown key", "did you mean 'steps'?", "'guidance'"]),
        ("3: x", ["3: unknown key"]),
        ("vae: {tiles: [1, 2]}", ["vae.tiles: unknown key", "did you mean 'tile'?"]),
        ("steps: many", ["steps: must be a whole number, got 'many'"]),
        ("steps: 2.5", ["steps: must be a whole number, got 2.5"]),
        ("steps: true", ["steps: must be a whole number, got True"]),
        ("steps: '3'", ["steps: must be a whole number, got '3'"]),
        ("steps: null", ["steps: must be a whole number, got None"]),
        ("steps: 1\nsteps: 2", ["not valid YAML", "steps"]),
        ("steps: 1\nnum_sampling_steps: 2", ["num_sampling_steps: is the old name of 'steps'"]),
        ("guidance: high", ["guidance: must be a number, got 'high'"]),
        ("quiet: 1", ["quiet: must be true or false, got 1"]),
        ("seed: x", ["seed: must be a whole number or null, got 'x'"]),
        ("prompt: 1984", ["prompt: must be text, got 1984 (put it in quotes)"]),
        ("prompt: [a]", ["prompt: must be text, got ['a']"]),
        ("dtype: bfloat61", ["dtype: must be one of 'float32', 'bfloat16'", "did you mean 'bfloat16'?"]),
        ("output: 3", ["output: must be a path, got 3"]),
        ("vae: 3", ["vae: must be a section of `key: value`, got 3"]),
        ("vae: {tile: [1]}", ["vae.tile: must be a list of 2 (a whole number, a whole number), got [1]"]),
        ("vae: {tile: [1, x]}", ["vae.tile: has an invalid item: item 1 must be a whole number"]),
        ("vae: {tile: 3}", ["vae.tile: must be a list of 2"]),
        ("resolution: 3", ["resolution: must be text or a list of 2"]),
        (
            "cache: teacach",
            ["cache: must be one of 'none', 'teacache', 'pab', 'linear'", "did you mean 'teacache'?"],
        ),
        ("cache: 3", ["cache: must be a name or a section"]),
        ("cache: {name: [a]}", ["cache.name: must be text"]),
        (
            "cache: {name: none, threshold: 1}",
            ["cache.threshold: unknown key", "no keys are allowed here except 'name'"],
        ),
        (
            "cache: {name: teacache, nme: pab}",
            ["cache.nme: unknown key (did you mean 'name'?)", "allowed: 'name', "],
        ),
        ("cache: {name: pab, threshold: 1}", ["cache.threshold: unknown key", "'ranges', 'spatial'"]),
        (
            "cache: {name: pab, ranges: {x: [1, 2]}}",
            ["cache.ranges: has an invalid item: item 'x'"],
        ),
        ("cache: {name: pab, ranges: [1]}", ["cache.ranges: must be a mapping"]),
        ("cache: {coefficients: [1, x]}", ["cache.coefficients: has an invalid item: item 1"]),
        ("cache: {threshold: -1}", ["cache: threshold must be 0 or more, got -1.0"]),
        ("hello", ["must contain `key: value` lines, got 'hello'"]),
        ("12", ["must contain `key: value` lines, got '12'"]),
        ("- a\n- b", ["must contain `key: value` lines"]),
        ("a: [1", ["not valid YAML"]),
        ("a: b: c", ["not valid YAML"]),
    ],
)
def test_a_mistake_in_a_file_is_one_error_with_file_and_key(tmp_path, text, words):
    with pytest.raises(ValueError) as caught:
        from_yaml(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "some.yaml"))
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("steps", ["override 'steps': must be key=value"]),
        ("=3", ["must be key=value"]),
        ("--steps=3", ["must be key=value"]),
        ("a..b=3", ["must be key=value"]),
        ("vae.tile[0]=3", ["must be key=value"]),
        ("stepz=3", ["stepz=3: unknown key", "did you mean 'steps'?"]),
        ("steps=x", ["steps=x: must be a whole number, got 'x'"]),
        ("steps=2.0", ["steps=2.0: must be a whole number, got 2.0"]),
        ("quiet=maybe", ["quiet=maybe: must be true or false"]),
        ("dtype=float16", ["dtype=float16: must be one of"]),
        (
            "cache=teacach",
            ["cache: must be one of 'none', 'teacache', 'pab', 'linear'", "did you mean 'teacache'?"],
        ),
        ("cache.threshold=-1", ["cache: threshold must be 0 or more"]),
        ("steps.x=1", ["steps: must be a whole number"]),
    ],
)
def test_a_mistake_in_an_override_is_one_error_with_key_and_value(override, words):
    with pytest.raises(ValueError) as caught:
        load_config(Config, overrides=[override])
    assert [word for word in words if word not in str(caught.value)] == []


def test_an_override_into_what_is_no_section():
    with pytest.raises(ValueError, match="an earlier override set this section to"):
        load_config(Config, overrides=["vae=3", "vae.micro_frames=1"])


def test_missing_values_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"some\.yaml: source: is missing"):
        load_config(Required, write(tmp_path, "cache: none"))
    with pytest.raises(ValueError, match=r"cache: needs a name, one of 'none'"):
        load_config(Required, overrides=["source=x", "cache.threshold=1"])
    assert load_config(Required, overrides=["source=x", "cache=none"]) == Required("x", NoCache())


def test_unreadable_files(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.yaml: no such config file"):
        load_config(Config, tmp_path / "absent.yaml")
    with pytest.raises(ValueError, match="cannot be read"):
        load_config(Config, tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match=r"binary\.yaml: cannot be read"):
        load_config(Config, tmp_path / "binary.yaml")


def test_a_field_type_that_cannot_be_read_is_our_own_mistake():
    @dataclass
    class Odd:
        made: bytes = b""

    with pytest.raises(TypeError, match="cannot have the type"):
        load_config(Odd, overrides=["made=x"])


def test_a_preset_without_its_class_in_the_registry_reads_back():
    made = load_config(Presets, overrides=["cache=fast", "cache.coefficients=[2]"])
    assert made.cache == Tea(0.2, (2.0,))
    assert config_to_dict(made)["cache"]["name"] == "slow"
    overrides = [f"cache={json.dumps(config_to_dict(made)['cache'])}"]
    assert load_config(Presets, overrides=overrides) == made


def test_config_to_dict_is_plain_and_names_the_choice():
    made = config_to_dict(Config(cache=Tea(0.2), second_vae=Vae()))
    assert made["cache"] == {
        "name": "teacache",
        "threshold": 0.2,
        "coefficients": [1.0, 0.0],
        "forecast": "hold",
    }
    assert made["output"] == "outputs"
    assert made["second_vae"] == {"micro_frames": None, "tile": [64, 64]}
    assert config_to_dict(Config(cache=NoCache()))["cache"] == {"name": "none"}


@given(
    prompt=st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])).filter(
        lambda text: "${" not in text
    ),
    prompts=st.none() | st.lists(st.sampled_from(["a: b", "1e3", "null", "yes", "${x}", "???", "'", ""])),
    guidance=st.floats(allow_nan=False, allow_infinity=False),
    cache=st.sampled_from([NoCache(), Tea(1e-5, (1.0, 2e22)), Pyramid(3, {7: (1, 2)})]),
)
def test_a_config_written_as_json_reads_back_equal(tmp_path_factory, prompt, prompts, guidance, cache):
    config = Config(prompt=prompt, prompts=prompts, guidance=guidance, cache=cache)
    text = json.dumps(config_to_dict(config), ensure_ascii=False)
    assert load_config(Config, write(tmp_path_factory.mktemp("json"), text, "some.json")) == config


def test_settings_may_be_those_of_omegaconf():
    plain = {"steps": 7, "cache": {"name": "teacache", "threshold": 0.4}, "seed": 7}
    settings = OmegaConf.create({**plain, "seed": "${steps}"})
    assert load_config(Config, settings) == load_config(Config, plain)
    del settings.steps
    with pytest.raises(ValueError, match="config: Interpolation key 'steps' not found"):
        load_config(Config, settings)
