"""Lists of prompts: every format that people have, and one error for what is none."""

from __future__ import annotations

import codecs
import json

import pytest

from videosys.utils import prompts as module
from videosys.utils.prompts import read_prompts

LINES = "a cat\n\n  a dog \r\na cow\ra\u2028b\nc\x0cd\x0be\x85f\n# no comment\n"
PROMPTS = ("a cat", "a dog", "a cow", "a\u2028b", "c\x0cd\x0be\x85f", "# no comment")


def write(folder, name: str, content: str | bytes):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "content",
    [
        LINES.encode(),
        codecs.BOM_UTF8 + LINES.encode(),
        codecs.BOM_UTF16_LE + LINES.encode("utf-16-le"),
        codecs.BOM_UTF16_BE + LINES.encode("utf-16-be"),
        codecs.BOM_UTF32_LE + LINES.encode("utf-32-le"),
        codecs.BOM_UTF32_BE + LINES.encode("utf-32-be"),
        LINES.encode("utf-16-le"),
        LINES.encode("utf-16-be"),
        LINES.encode("utf-32-le"),
        LINES.encode("utf-32-be"),
    ],
    ids=["8", "8 mark", "16le mark", "16be mark", "32le mark", "32be mark", "16le", "16be", "32le", "32be"],
)
@pytest.mark.parametrize("name", ["list.txt", "list", "list.prompts"])
def test_lines_of_text(tmp_path, name, content):
    assert read_prompts(write(tmp_path, name, content)).prompts == PROMPTS


def test_the_mark_of_a_file_put_after_another_is_dropped(tmp_path):
    assert read_prompts(write(tmp_path, "a.txt", "a\n\ufeffb\n\ufeff\n")).prompts == ("a", "b")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize(
    "text",
    ["\u4e00\u53ea\u732b\n\u4e00\u53ea\u72d7\n", "\u4e00\u53ea\u732b", "a", "\u00e9t\u00e9 \U0001f408\n"],
)
def test_text_without_a_mark_is_not_mistaken(tmp_path, text, encoding):
    assert read_prompts(write(tmp_path, "a.txt", text.encode(encoding))).prompts == tuple(text.splitlines())


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", '["a cat", " b "]', ("a cat", " b ")),
        ("a.JSON", '\ufeff[{"prompt": "a", "seed": 3}, {"prompt": "b"}]', ("a", "b")),
        ("a.json", '["a", {"caption": "b"}]', ("a", "b")),
        ("a.jsonl", '{"prompt": "a\\nb"}\r\n\r\n"c"\n', ("a\nb", "c")),
        ("a.ndjson", '{"text": "a"}', ("a",)),
        ("a.csv", 'id,prompt\n1,a\n2,"b, ""c""\nd"\n', ("a", 'b, "c"\nd')),
        ("a.csv", "\ufeffPrompt ,id\r\n a ,1\r\n,\r\n\r\nb,2\r\n", ("a", "b")),
        ("a.csv", "id;prompt\n1;a, b\n", ("a, b",)),
        ("a.csv", "prompt\na\u2028b\n", ("a\u2028b",)),
        ("a.tsv", "id\tprompt\n1\ta, b; c\n", ("a, b; c",)),
        ("a.txt", "[cinematic] a cat\n", ("[cinematic] a cat",)),
        ("a.txt", '["x"] a cat\n{a} dog\n', ('["x"] a cat', "{a} dog")),
        (
            "a.txt",
            'a cat{"reference_path": "x"}\nid, prompted\n',
            ('a cat{"reference_path": "x"}', "id, prompted"),
        ),
        ("a.txt", "Riff raff\nBMW\nPK\n", ("Riff raff", "BMW", "PK")),
    ],
)
def test_other_formats(tmp_path, name, content, expected):
    file = read_prompts(write(tmp_path, name, content))
    assert file.prompts == expected
    assert not file.is_vbench
    if name.endswith(".json") and "\ufeff" in content:
        assert read_prompts(write(tmp_path, name, content.encode("utf-16-le"))).prompts == expected


def test_vbenchs_list(tmp_path):
    rows = [{"prompt_en": "a cup ", "dimension": ["color"], "auxiliary_info": {"color": {"color": "red"}}}]
    file = read_prompts(write(tmp_path, "VBench_full_info.json", json.dumps(rows)))
    assert (file.prompts, file.rows, file.is_vbench) == (("a cup ",), tuple(rows), True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "it has no prompts"),
        ("a.txt", " \n\ufeff\n\t\n", "it has no prompts"),
        ("a.txt", b"a cat\nb\0\nxxxxxx", "line 2 has a NUL"),
        ("a.txt", "\u00e9t\u00e9\n".encode("latin-1"), "line 1 is not UTF-8"),
        ("a.txt", "a\n\u732b\u72d7\n".encode("gbk"), "line 2 is not UTF-8"),
        ("a.txt", "\u732b\u72d7".encode("utf-16-le"), "is not UTF-8"),
        ("a.txt", b"\x01\x00\x02\x00\x03\x00\x01\x00", "line 1 has a NUL: it is not text, or UTF-16"),
        ("a.txt", codecs.BOM_UTF16_LE + b"a\0b", "not UTF-16-LE"),
        ("a.txt", '["a", "b"]', r"it contains JSON: its name must end in \.json"),
        ("a.txt", '[\n"a",\n"b"\n]', r"it contains JSON"),
        ("a.txt", '[\n"a",\n"b"\n', r"it contains JSON"),
        (
            "a.txt",
            '{"prompt": "a"}\n{"prompt": "b"}\n',
            r"it contains JSON lines: its name must end in \.jsonl",
        ),
        ("a", "id,prompt\n1,a\n", r"it contains a table: its name must end in \.csv"),
        ("a.txt", "prompt_en\tid\na\t1\n", "it contains a table"),
        ("a.json", '{"prompt": "a"}\n{"prompt": "b"}\n', "it contains JSON lines"),
        ("a.json", "a cat\n", "line 1 is not JSON"),
        ("a.json", '["a",\n"b"', "line 2 is not JSON"),
        ("a.json", "{}", "must hold a JSON list of texts or objects, got dict"),
        ("a.json", '"a"', "got str"),
        ("a.json", "[]", "it has no prompts"),
        ("a.json", '["a", 1]', "item 1 must be text, got '1'"),
        ("a.json", '["a", ""]', "item 1 is blank"),
        ("a.json", "[null]", "item 0 must be text"),
        ("a.json", '[["a"]]', "item 0 must be text"),
        ("a.json", '[{"name": "a"}]', "item 0 has none of the keys prompt, prompt_en"),
        ("a.json", '[{"prompt": 1}]', "item 0 must be text at 'prompt'"),
        ("a.json", '[{"prompt": "a", "prompt": "b"}]', "the key 'prompt' is given twice"),
        ("a.json", '["\\ud800"]', "item 0 has a NUL or a lone surrogate"),
        ("a.json", '["a\\u0000"]', "item 0 has a NUL"),
        ("a.json", "[" * 100_000, "nested deeper than 100 brackets"),
        ("a.json", '[{"prompt": "a", "x": ' + "[" * 100_000, "nested deeper than 100 brackets"),
        ("a.jsonl", '["a", "b"]', r"it contains JSON: its name must end in \.json"),
        ("a.jsonl", '{"prompt": "a"}\n{bad\n', "line 2 is not JSON"),
        ("a.jsonl", '"a"\n["b"]', "line 2 must be a text or an object"),
        ("a.jsonl", '"a"\n\n{"x": 1}', "line 3 has none of the keys"),
        ("a.csv", "id,name\n1,a\n", "no column has the name prompt or .*; the first line has 'id', 'name'"),
        ("a.csv", "a cat\na dog\n", "no column has the name prompt"),
        (
            "a.csv",
            "prompt\na cat, sitting\n",
            "line 2 has 2 columns, .* has 1.*needs quotes",
        ),
        ("a.csv", "id,prompt\n1\n", "line 2 has 1 columns"),
        ("a.csv", 'id,prompt\n1,"a\nb\n', "not a valid table row: unexpected end of data"),
        ("a.csv", 'id,prompt\n1,"a"b\n', "line 2 is not a valid table row"),
        ("a.csv", "id,prompt\n1,a\n2, \n", "line 3 is blank"),
        ("a.csv", "prompt,prompt\na,b\n", "two columns have the name 'prompt'"),
        ("a.csv", "id,prompt\n", "it has no prompts"),
        ("a.csv", "prompt\n" + "x" * 200_000, "line 2 is not a valid table row: field larger"),
        ("a.tsv", "id,prompt\n1,a\n", "no column has the name prompt"),
        ("a.txt", b"\x89PNG\r\n\x1a\n", "it is a PNG image"),
        ("a.json", b"\xff\xd8\xff\xe0", "it is a JPEG image"),
        ("a.txt", b"\0\0\0\x18ftypisom", "it is an MP4 video"),
        ("a.csv", b"PK\x03\x04", "it is a ZIP archive, as .xlsx"),
        ("a.txt", b"%PDF-1.7", "it is a PDF document"),
        ("a.txt", b"\n<!DOCTYPE html>\n", "it is an HTML page"),
        ("a.txt", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("a.txt", b"\x80\x04\x95", "it is a pickle"),
    ],
)
def test_what_is_no_list_is_one_error_with_file_and_line(tmp_path, name, content, message):
    path = write(tmp_path, name, content)
    with pytest.raises(ValueError, match=message) as caught:
        read_prompts(path)
    assert str(caught.value).startswith(f"{path}: cannot be read as prompts: ")
    assert "\n" not in str(caught.value)


def test_sizes_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 1 << 20)
    assert read_prompts(write(tmp_path, "a.txt", "a" * (1 << 20))).prompts == ("a" * (1 << 20),)
    with pytest.raises(ValueError, match="is larger than the limit of 1 MiB"):
        read_prompts(write(tmp_path, "a.txt", "a" * ((1 << 20) + 1)))
    with pytest.raises(ValueError, match="it is a device, not a file"):
        read_prompts("/dev/zero")
    monkeypatch.setattr(module, "MOST_PROMPTS", 3)
    assert len(read_prompts(write(tmp_path, "a.txt", "a\n" * 3)).prompts) == 3
    with pytest.raises(ValueError, match="it has more than 3 prompts"):
        read_prompts(write(tmp_path, "a.txt", "a\n" * 4))


@pytest.mark.parametrize("name", ["nowhere.txt", ".", "x" * 300])
def test_what_is_no_file_is_the_same_error(tmp_path, name):
    with pytest.raises(ValueError, match="cannot be read"):
        read_prompts(tmp_path / name)
