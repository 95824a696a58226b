"""Configs, overrides and JSON files of any content: an instance, or one ValueError that names key or file."""

from __future__ import annotations

import dataclasses
import json

from hypothesis import given
from hypothesis import strategies as st

from tests.property.fuzzing import changed, fuzzed, places, plain, replaced, result_or_error
from videosys import FAMILIES, CausalVAEConfig, LatteVAEConfig, OpenSoraVAEConfig, load_config
from videosys.cache import read_calibration
from videosys.models import FAMILIES as ALL
from videosys.models.opensora.transformer import STDiT3Config
from videosys.utils.checkpoint import read_config
from videosys.utils.hub import BUNDLED_FOLDER

FAMILY = st.sampled_from(sorted(FAMILIES))
CALIBRATION = next(BUNDLED_FOLDER.rglob("calibration.json"))
PARTS = (CausalVAEConfig, LatteVAEConfig, OpenSoraVAEConfig, STDiT3Config)
CONFIGS = sorted(BUNDLED_FOLDER.glob("*/*/config.json"))


def names_of(family: str) -> list[str]:
    return [field.name for field in dataclasses.fields(ALL[family].config)]


@fuzzed
@given(FAMILY, st.data())
def test_settings(name, data):
    keys = st.sampled_from(names_of(name)) | st.text(max_size=8)
    settings = data.draw(st.dictionaries(keys, plain, min_size=1, max_size=3))
    # A value may be refused together with one that was not given.
    result_or_error(lambda: load_config(ALL[name].config, settings), *settings, *names_of(name))


@fuzzed
@given(FAMILY, st.data())
def test_overrides(name, data):
    key = data.draw(st.sampled_from(names_of(name)) | st.text(max_size=8))
    text = data.draw(st.text(max_size=30) | plain.map(repr) | plain.map(lambda value: json.dumps(value)))
    override = f"{key}{data.draw(st.sampled_from(['', '.name', '.x.y']))}={text}"
    names = (key, repr(key)[1:-1], *names_of(name))
    result_or_error(lambda: load_config(ALL[name].config, None, [override]), *names)


@fuzzed
@given(FAMILY, st.data())
def test_files(tmp_path_factory, name, data):
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    start = f"num_frames: 17\nseed: 3\n{data.draw(st.sampled_from(names_of(name)))}: ".encode()
    path.write_bytes(
        start
        + data.draw(st.binary(max_size=40) | st.text(max_size=40).map(lambda t: t.encode("utf-8", "replace")))
    )
    result_or_error(lambda: load_config(ALL[name].config, path), path)


@fuzzed
@given(st.sampled_from(CONFIGS), st.data())
def test_config_json(tmp_path_factory, source, data):
    folder = tmp_path_factory.getbasetemp()
    content = json.loads(source.read_text())
    whole = json.dumps(replaced(content, data.draw(st.sampled_from(list(places(content)))), data.draw(plain)))
    (folder / "config.json").write_bytes(data.draw(st.just(whole.encode()) | changed(whole.encode())))
    cls = data.draw(st.sampled_from(PARTS))
    result_or_error(lambda: read_config(cls, folder), folder / "config.json")


@fuzzed
@given(st.data())
def test_calibrations(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "calibration.json"
    content = json.loads(CALIBRATION.read_text())
    whole = json.dumps(replaced(content, data.draw(st.sampled_from(list(places(content)))), data.draw(plain)))
    path.write_bytes(data.draw(st.just(whole.encode()) | changed(whole.encode())))
    result_or_error(lambda: read_calibration(path), path)
