"""Weights of which some names, or several sets of them, have prefixes: one line that names these."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from tests.toy_weights import Toy, text_encoder_weights
from videosys.text_encoders.t5 import load_weights
from videosys.utils.checkpoint import check_model, load_model
from videosys.utils.prefixes import prefixes_of

KEYS = list(Toy(None).state_dict())  # 8


def write(folder, names: dict[str, list[str]], extra: tuple[str, ...] = ()) -> None:
    """Write tensors of these keys with each prefix."""
    own = Toy(None).state_dict()
    tensors = {prefix + key: own[key].clone() for prefix, keys in names.items() for key in keys}
    save_file({**tensors, **{key: torch.zeros(1) for key in extra}}, folder / "model.safetensors")


def refused(folder) -> str:
    with pytest.raises(ValueError, match="the weights do not fit Toy") as caught:
        check_model(Toy, None, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value).partition("Toy; ")[2]


@pytest.mark.parametrize(
    ("first", "second"),
    [("module.", "ema."), ("module.", "model."), ("student.", "teacher."), ("a.b.", "a.c."), ("", "ema.")],
)
def test_two_whole_sets_are_named(tmp_path, first, second):
    write(tmp_path, {first: KEYS, second: KEYS})
    places = [f"8 with {prefix!r}" for prefix in (first, second) if prefix]
    places = sorted(places) if first else ["8 without a prefix", *places]
    told = f"the file holds 2 complete sets of the model's 8 keys: {' and '.join(places)}; keep one of them"
    assert refused(tmp_path) == told


@pytest.mark.parametrize("prefix", ["module.", "ema.", "student.net."])
@pytest.mark.parametrize("count", [1, 4, 7])
def test_a_set_of_which_some_have_a_prefix(tmp_path, prefix, count):
    write(tmp_path, {prefix: KEYS[:count], "": KEYS[count:]})
    message = refused(tmp_path)
    assert f"{8 - count} without a prefix and {count} with {prefix!r}; rename" in message
    assert "missing" not in message
    assert "unexpected" not in message


def test_parts_of_a_set_behind_several_prefixes(tmp_path):
    write(tmp_path, {"a.": KEYS[:3], "b.": KEYS[3:6], "c.": KEYS[6:]})
    message = refused(tmp_path)
    assert message.startswith("the file holds keys of the model: 3 with 'a.' and 3 with 'b.' and 2 with")


def test_what_prefixes_do_not_explain_is_listed_beside_them(tmp_path):
    write(tmp_path, {"module.": KEYS[:4], "ema.": KEYS[1:4], "": KEYS[5:]}, ("odd",))
    message = refused(tmp_path)
    assert "3 without a prefix and 4 with 'module.' and 3 with 'ema.'" in message
    assert message.endswith(f"1 missing: {KEYS[4]}; 1 unexpected: odd")


def test_a_part_of_a_set_beside_a_whole_one(tmp_path):
    write(tmp_path, {"module.": KEYS, "ema.": KEYS[:5]})
    assert "8 without a prefix once 'module.' is removed and 5 with 'ema.'" in refused(tmp_path)


def test_many_prefixes_are_not_all_listed(tmp_path):
    write(tmp_path, {f"{letter}.": KEYS for letter in "abcdefgh"})
    assert "8 complete sets" in refused(tmp_path)
    assert "with 'e.' and more with 3 other prefixes" in refused(tmp_path)


def test_ignored_keys_with_names_of_the_model_are_no_second_set(tmp_path):
    write(tmp_path, {"": KEYS, "loss.": KEYS})
    load_model(Toy, None, tmp_path)


def test_a_single_name_that_ends_as_another_is_no_prefix(tmp_path):
    assert prefixes_of(["x", "w", "odd.x"], ["x", "w"]) == {}
    assert prefixes_of(["w", "odd.x"], ["x", "w"]) == {"odd.": 1}
    assert prefixes_of(["a.b.x", "a.y"], ["x", "b.x", "y"]) == {"a.": 2}


def test_the_text_encoder_names_them_too(tmp_path):
    state = text_encoder_weights(tmp_path)
    tensors = {prefix + key: item.clone() for prefix in ("module.", "ema.") for key, item in state.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"with 'ema\.' and .* with 'module\.'"):
        load_weights(tmp_path, torch.float32)
