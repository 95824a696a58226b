"""The tiny tokenizer: every caption word is one piece after the sampling path's suffix and cleaning."""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import pytest

import videosys.tiny
from eval.training.captions import caption
from eval.training.clips import sample_spec
from eval.training.tokenizer import SUFFIX_WORDS, main, train
from videosys.text_encoders.cleaning import prepare_prompt
from videosys.tiny.words import WORDS

SHIPPED = Path(videosys.tiny.__path__[0]) / "opensora" / "tokenizer"


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import T5Tokenizer

    return T5Tokenizer.from_pretrained(str(SHIPPED), extra_ids=0)


def test_special_tokens_are_those_of_t5(tokenizer):
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer.model_max_length == 300
    assert len(tokenizer) < 128


def test_every_word_is_one_piece(tokenizer):
    ids = [tokenizer(word).input_ids for word in (*WORDS, *SUFFIX_WORDS, *string.digits)]
    assert all(len(row) == 2 and row[0] > 2 and row[1] == 1 for row in ids)
    assert len({row[0] for row in ids}) == len(ids)


def test_captions_are_short_and_come_back_whole(tokenizer):
    rng = np.random.default_rng(0)
    for _ in range(300):
        prompt = prepare_prompt(caption(sample_spec(rng, held_out=None), rng))
        ids = tokenizer(prompt).input_ids
        assert len(ids) <= 24
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == prompt


def test_all_suffixes_are_known(tokenizer):
    prompt = prepare_prompt("a red circle", aes=6.5, flow=12.3, camera_motion="zoom in")
    assert tokenizer.unk_token_id not in tokenizer(prompt).input_ids


@pytest.mark.parametrize("text", ["zebra", "élan 你好 🙂", "", "</s> <pad> a", "a\n\tb", "x" * 5000])
def test_unknown_text_degrades_to_pieces(tokenizer, text):
    ids = tokenizer(text, max_length=300, truncation=True).input_ids
    assert 1 <= len(ids) <= 300
    assert ids[-1] == tokenizer.eos_token_id


def test_the_command_writes_the_shipped_pieces(tokenizer, tmp_path):
    from transformers import T5Tokenizer

    main(["--out", str(tmp_path / "tokenizer")])
    again = T5Tokenizer.from_pretrained(str(tmp_path / "tokenizer"), extra_ids=0)
    assert again.get_vocab() == tokenizer.get_vocab()
    names = {path.name for path in SHIPPED.iterdir()}
    assert {path.name for path in (tmp_path / "tokenizer").iterdir()} == names


def test_a_word_that_cannot_be_one_piece_is_named():
    with pytest.raises(ValueError, match="light blue"):
        train(["red", "light blue"])
