"""Counted work, the projection, and the report's tables, plots and pages."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from tests.evaluation import costs, counting, draw, gpus, page, report, results, sections, work
from videosys import (
    LatteConfig,
    LatteT2VConfig,
    OpenSoraConfig,
    OpenSoraPlanConfig,
    OpenSoraT2VConfig,
    OpenSoraVAEConfig,
    STDiT3,
    STDiT3Config,
    TransformerWork,
    blueprint,
    config_to_dict,
    transformer_work,
)
from videosys.tiny import config as tiny_config

SMALL = {
    "STDiT3": STDiT3Config(depth=1, hidden_size=64, num_heads=4, caption_channels=32),
    "LatteT2V": LatteT2VConfig(
        num_layers=1,
        num_attention_heads=4,
        attention_head_dim=16,
        cross_attention_dim=64,
        caption_channels=32,
    ),
    "OpenSoraT2V": OpenSoraT2VConfig(
        num_layers=1,
        num_attention_heads=4,
        attention_head_dim=24,
        cross_attention_dim=96,
        caption_channels=32,
    ),
}


CONFIGS = {
    "STDiT3": OpenSoraConfig(),
    "LatteT2V": LatteConfig(),
    "OpenSoraT2V": OpenSoraPlanConfig(),
}


def counted(name: str) -> TransformerWork:
    return transformer_work(costs.with_transformer(blueprint(CONFIGS[name]), SMALL[name], (4, 8, 12)), 10)


@pytest.mark.parametrize("name", SMALL)
def test_a_reused_step_is_embedding_and_head_only(name):
    made = counted(name)
    assert made.tokens == 2 * 4 * 4 * 6
    assert 0 < made.reused < 0.2 * made.step
    assert made.prepare > 0


def test_the_count_of_latte_is_the_sum_by_hand():
    width, tokens, text = 64, 4 * 4 * 6, 10
    frames, places = 4, 4 * 6
    linear = (
        2 * tokens * width * width * (4 + 8)
    )  # of a block: q, k, v, out, and the perceptron of four times
    cross = 2 * tokens * width * width * 2 + 2 * 2 * tokens * text * width
    attention = 2 * 2 * tokens * width * (places + frames)
    blocks = 2 * (2 * linear + cross + attention)
    made = counted("LatteT2V")
    assert made.step - made.reused == pytest.approx(blocks, rel=1e-3)


def test_the_work_of_a_run_adds_up():
    made = TransformerWork(7, 100, 3, 1000, 64, 2, passes=(58, 8))
    assert made.total(20, 50) == 7 + 20 * 100 + 30 * 3
    gpu = gpus.Gpu("x", 10.0 / gpus.PRODUCTS, 1000.0 / gpus.COPIES)
    crossing = 1000 * 64 * 2 / 1000
    assert work.seconds(made, 20, 50, gpu, fused=True) == pytest.approx(
        209.7 + crossing * (20 * 2 * 8 + 30 * 10)
    )
    eager = work.seconds(made, 20, 50, gpu, fused=False)
    assert eager == pytest.approx(209.7 + crossing * (20 * 2 * 58 + 30 * 10))


def test_cards_are_found_by_name_or_given_by_numbers():
    assert list(gpus.known()) == ["A100-80GB", "H100-SXM", "H200", "L40S", "RTX-4090"]
    for name, card in gpus.known().items():
        assert gpus.find(name.lower()) == card
        assert "NVIDIA" in card.source
        assert 150e12 < card.peak_flops < 1000e12  # without sparsity, which would double it
        assert 0.8e12 < card.peak_bandwidth < 5e12
    given = gpus.find("A800 = 312,2.039")
    assert (given.name, given.source) == ("A800", "as given")
    assert given.flops == pytest.approx(gpus.find("A100-80GB").flops)
    assert given.bandwidth == pytest.approx(0.9 * 2.039e12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A1000", "--gpu 'A1000' is unknown; allowed: A100-80GB, H100-SXM, H200, L40S, RTX-4090, or NAME="),
        ("x=312", "--gpu 'x=312' must be NAME=TFLOPS,TBS, with two numbers above 0"),
        ("x=312,0", "must be NAME=TFLOPS,TBS"),
        ("x=nan,1", "must be NAME=TFLOPS,TBS"),
        ("=312,2", "must be NAME=TFLOPS,TBS"),
        ("note", "--gpu 'note' is unknown"),
    ],
)
def test_other_cards_are_refused_before_anything_is_read(text, message, tmp_path, capsys):
    assert report.main(["--root", str(tmp_path), f"--gpu={text}"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_published_sizes_have_their_known_work():
    known = {"Latte-1, 16 x 512 x 512": 68.2, "Open-Sora v1.2, 51 x 480p": 112.9}  # TFLOPs of a step
    for setting in work.SETTINGS:
        if setting.title in known:
            assert transformer_work(setting.plan).step / 1e12 == pytest.approx(known[setting.title], rel=0.01)


def test_published_sizes_have_the_latents_and_evaluations_of_their_checkpoints():
    plans = [setting.plan for setting in work.SETTINGS]
    assert [(*plan.latent_size, plan.evaluations) for plan in plans] == [
        (16, 64, 64, 50),
        (15, 60, 106, 30),
        (60, 60, 106, 30),
        (17, 64, 64, 159),
        (8, 60, 80, 100),
        (24, 90, 160, 100),
    ]
    studies = ["latte", "opensora", "opensora", "open_sora_plan_v110", *2 * ["open_sora_plan_v120"]]
    assert [setting.study for setting in work.SETTINGS] == studies


@pytest.mark.parametrize("frames", [17, 34, 51])
def test_latents_of_a_manifest_are_those_of_the_autoencoder(frames):
    manifest = config_to_dict(tiny_config("opensora", num_frames=frames))
    _, rows, columns = OpenSoraVAEConfig().latent_size(frames, 64, 96)
    expected = 2 * OpenSoraVAEConfig().latent_frames(frames) * (rows // 2) * (columns // 2)
    assert costs.of_config(manifest, frames, 64, 96).work().tokens == expected


def test_a_plot_is_a_picture_with_every_point_inside():
    panels = [
        draw.Panel("a <b>", "x & y", "dB", {"one": (1.0, 20.0), "two": (3.0, 40.0)}),
        draw.Panel("single", "x", "y", {"one": (2.0, 5.0)}),
    ]
    tree = ElementTree.fromstring(draw.plot(panels))
    circles = [item for item in tree.iter() if item.tag.endswith("circle")]
    assert len(circles) == 3
    for circle in circles:
        assert draw.LEFT <= float(circle.get("cx")) <= draw.WIDTH - draw.RIGHT
        assert draw.TOP <= float(circle.get("cy")) <= draw.HEIGHT - draw.BOTTOM
    one, two = circles[:2]
    assert float(one.get("cx")) < float(two.get("cx"))
    assert float(one.get("cy")) > float(two.get("cy"))


def test_names_of_points_do_not_cover_each_other():
    places = {"teacache_slow": (100.0, 100.0), "teacache_naive": (100.0, 100.0), "steps_50": (110.0, 104.0)}
    places |= {"far": (300.0, 100.0), "top": (100.0, draw.TOP + 1.0)}
    made = draw.labels(places)
    assert made["teacache_slow"] == (107.0, 104.0, "start")
    assert made["far"] == (293.0, 104.0, "end")
    near = [made[name][1] for name in ("teacache_slow", "teacache_naive", "steps_50")]
    gaps = [abs(a - b) for number, a in enumerate(near) for b in near[:number]]
    assert min(gaps) >= draw.LINE
    assert all(draw.TOP < y < draw.HEIGHT - draw.BOTTOM for _, y, _ in made.values())


def test_frames_stand_side_by_side(tmp_path):
    red = torch.zeros(9, 20, 30, 3, dtype=torch.uint8)
    red[..., 0] = 255
    draw.frames({"base": red, "other": 255 - red}, tmp_path / "x.png", count=3, side=40)
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (120 + 3 * 64, 2 * 44)
        assert image.getpixel((130, 20)) == (255, 0, 0)
        assert image.getpixel((130, 64)) == (0, 255, 255)
    draw.frames({"a" * 40: red}, tmp_path / "x.png", count=1, side=40)
    with Image.open(tmp_path / "x.png") as image:
        assert image.getpixel((6 * 40 + 4, 20)) == (255, 255, 255)  # room for the name


def test_a_page_is_the_same_in_both_forms(tmp_path):
    (tmp_path / "p.svg").write_text("<svg>here</svg>")
    Image.new("RGB", (2, 2)).save(tmp_path / "p.png")
    blocks = [
        page.Heading("One & two", 1),
        page.Text("a < b"),
        page.Table(["m", "v"], [["x", "1"], ["y", "-"]]),
        page.Picture("p.svg", "plot"),
        page.Picture("p.png", "frames"),
    ]
    markdown = page.to_markdown(blocks)
    assert "| m | v |\n| --- | --: |\n| x | 1 |\n| y | - |" in markdown
    assert "![plot](p.svg)" in markdown
    html = page.to_html(blocks, tmp_path, "T")
    for part in ("One &amp; two", "a &lt; b", "<td>-</td>", "<svg>here</svg>", "data:image/png;base64,"):
        assert part in html


@pytest.mark.parametrize(("missing", "cell"), [([], "79.34"), (["color"], "79.34 (incomplete)")])
def test_a_vbench_total_of_an_incomplete_set_is_marked(missing, cell):
    times = {"steps": 4, "computed": 4, "seconds": 2.0}
    made = results.Result("base", {"a.mp4": times}, None, False, {"total": 79.342, "missing": missing})
    assert sections.figures(made, made) == ["base", "4.0 of 4", "-", "1.00", "2.00", cell]


def test_the_papers_table_is_quoted_whole():
    quoted = sections.read_json(sections.PAPER)
    assert {name: len(rows) for name, rows in quoted["models"].items()} == {
        "latte": 7,
        "opensora": 7,
        "open_sora_plan_v110": 7,
    }
    teacache = quoted["models"]["opensora"][5]
    assert teacache["method"] == "TeaCache-slow"
    assert [teacache[key] for key in sections.PAPER_KEYS] == [2.40, 1.55, 28.78, 79.28, 0.1316, 0.8415, 23.62]


@pytest.mark.parametrize(("study", "remarked"), [("opensora_v1_2", False), ("open_sora_plan_v110", True)])
def test_a_remark_stands_only_where_it_belongs(study, remarked):
    said, _ = sections.paper(SimpleNamespace(study=study))
    assert said.words.startswith("Quoted from the paper, not measured here")
    assert ("T-GATE" in said.words) == remarked


def test_a_counted_run_finds_all_the_work_that_is_known():
    """Whatever operators a CPU runs: what they do is what the model without data does."""
    made = counted("STDiT3")
    model = STDiT3(SMALL["STDiT3"]).eval()

    class Engine:
        def generate(self, prompt: str, seed: int) -> None:
            with torch.no_grad():
                condition = model.prepare(
                    torch.randn(2, 10, 32), None, latent_size=(4, 8, 12), fps=24.0, height=64.0, width=96.0
                )
                model(torch.randn(2, 4, 4, 8, 12), torch.rand(2), condition)

    assert counting.generation(Engine(), "", 0, {}) == made.prepare + made.step


def test_a_page_of_the_documentation_gets_the_report_between_its_marks(tmp_path):
    target = tmp_path / "docs" / "page.md"
    target.parent.mkdir()
    target.write_text(f"# Title\n\n{page.BEGIN}\nold\n{page.END}\nmore\n")
    (tmp_path / "p.svg").write_text("<svg/>")
    blocks = [page.Heading("Model"), page.Text("words"), page.Picture("p.svg", "plot")]
    for _ in range(2):
        page.fill(target, blocks, tmp_path)
        expected = f"{page.BEGIN}\n\n### Model\n\nwords\n\n![plot](images/p.svg)\n\n{page.END}"
        assert target.read_text() == f"# Title\n\n{expected}\nmore\n"
    assert (target.parent / "images" / "p.svg").read_text() == "<svg/>"


def test_a_page_without_marks_is_left_alone(tmp_path, capsys):
    target = tmp_path / "page.md"
    target.write_text(f"{page.END} {page.BEGIN}")
    with pytest.raises(ValueError, match="must contain the marks"):
        page.fill(target, [], tmp_path)
    assert target.read_text() == f"{page.END} {page.BEGIN}"
