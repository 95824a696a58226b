"""How devices are shared out, what is refused before anything is loaded, and one device."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from videosys import LatteConfig, LatteT2VConfig, OpenSoraT2VConfig, ParallelConfig, STDiT3Config, load_config
from videosys.parallel import Parallel, ops

AXES = (None, 1, 2, 3, 4, 6)


def axes(config):
    return config.dp, config.cfg, config.sp


@pytest.mark.parametrize(
    ("fields", "is_guided", "expected"),
    [
        ({"num_gpus": 1}, True, (1, 1, 1)),
        ({"num_gpus": 2}, True, (1, 2, 1)),
        ({"num_gpus": 2}, False, (1, 1, 2)),
        ({"num_gpus": 3}, True, (1, 1, 3)),
        ({"num_gpus": 8}, True, (1, 2, 4)),
        ({"num_gpus": 8, "sp": 2}, True, (2, 2, 2)),
        ({"num_gpus": 8, "sp": 2}, False, (4, 1, 2)),
        ({"num_gpus": 8, "dp": 2}, True, (2, 2, 2)),
        ({"num_gpus": 8, "cfg": 1}, True, (1, 1, 8)),
        ({"num_gpus": 6, "dp": 3}, False, (3, 1, 2)),
        ({"num_gpus": 4, "dp": 4}, True, (4, 1, 1)),
    ],
)
def test_open_axes_are_chosen(fields, is_guided, expected):
    assert axes(ParallelConfig(**fields).resolved(is_guided)) == expected


def test_what_is_chosen_always_multiplies_and_keeps_what_was_given():
    for num_gpus, dp, cfg, sp, is_guided in product(range(1, 13), AXES, (None, 1, 2), AXES, (True, False)):
        try:
            config = ParallelConfig(num_gpus, dp, cfg, sp).resolved(is_guided)
        except ValueError:
            continue
        assert config.dp * config.cfg * config.sp == num_gpus
        assert axes(config) == (dp or config.dp, cfg or config.cfg, sp or config.sp)
        assert is_guided or config.cfg == 1
        assert config.resolved(is_guided) is config


def test_what_is_chosen_is_written_down(caplog):
    with caplog.at_level("INFO", "videosys.parallel"):
        ParallelConfig(4).resolved(is_guided=True)
    assert caplog.records[0].fields == {"num_gpus": 4, "dp": 1, "cfg": 2, "sp": 2}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_gpus": 0}, r"parallel.num_gpus is 0; it must be 1 or more"),
        ({"num_gpus": 4, "sp": 3}, r"dp None, cfg None and sp 3 do not multiply to num_gpus 4"),
        ({"num_gpus": 4, "dp": 1, "cfg": 2, "sp": 1}, r"dp 1, cfg 2 and sp 1 do not multiply to num_gpus 4"),
        ({"num_gpus": 3, "cfg": 3}, r"parallel.cfg is 3; it must be 1 or 2"),
        ({"num_gpus": 2, "dp": -2}, r"parallel.dp is -2; it must be 1 or more"),
        ({"timeout": 0}, r"parallel.timeout is 0.*above 0"),
        ({"mesh_backend": "mpi"}, r"mesh_backend must be one of 'torch', 'colossalai', got 'mpi'"),
    ],
)
def test_impossible_meshes_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ParallelConfig(**fields)


@pytest.mark.parametrize("fields", [{"dp": 2}, {"cfg": 1, "sp": 4}, {"dp": 2, "cfg": 1, "sp": 1}])
def test_axes_may_be_given_before_the_number_of_devices_and_are_held_to_it(fields):
    config = ParallelConfig(**fields)
    with pytest.raises(ValueError, match=r"do not multiply to num_gpus 1$"):
        config.resolved(is_guided=True)


@pytest.mark.parametrize("fields", [{"cfg": 2}, {"dp": 1, "cfg": 2, "sp": 1}])
def test_a_pair_is_not_split_without_guidance(fields):
    with pytest.raises(ValueError, match=r"parallel.cfg is 2, but guidance_scale is 1"):
        ParallelConfig(2, **fields).resolved(is_guided=False)


def test_axes_come_from_a_file_and_from_overrides(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("parallel: {num_gpus: 4, sp: 4}\n")
    config = load_config(LatteConfig, file, ["parallel.cfg=1", "parallel.timeout=60"])
    assert config.parallel == ParallelConfig(4, cfg=1, sp=4, timeout=60.0)


@pytest.mark.parametrize(
    ("config", "sp", "size", "message"),
    [
        (STDiT3Config(), 5, (15, 3, 3), r"parallel.sp is 5; it must be 4 or less, .* tokens .* \(2 x 2\)"),
        (LatteT2VConfig(), 7, (16, 4, 6), r"parallel.sp is 7; it must be 6 or less, .* \(2 x 3\)"),
        (OpenSoraT2VConfig(), 8, (8, 4, 2), r"parallel.sp is 8; it must be 2 or less"),
        (
            OpenSoraT2VConfig(),
            16,
            (8, 60, 80),
            r"sp is 16, .* 24 attention heads; allowed: 1, 2, 3, 4, 6, 8, 12, 24",
        ),
    ],
)
def test_models_refuse_more_devices_than_can_share_them(config, sp, size, message):
    with pytest.raises(ValueError, match=message):
        config.check_parallel(sp, size)


def test_models_take_uneven_shards():
    STDiT3Config().check_parallel(4, (1, 3, 3))
    LatteT2VConfig().check_parallel(7, (16, 64, 64))
    OpenSoraT2VConfig().check_parallel(8, (24, 90, 160))


def test_one_device_gets_its_input_back():
    parallel, x = Parallel.from_config(ParallelConfig(), "cpu"), torch.randn(2, 3, 4)
    assert parallel == Parallel()
    for output in (
        parallel.shard(x, 1),
        parallel.gather(x, 1, 3),
        parallel.swap(x, gather=1, scatter=2, size=3),
        parallel.swap_all((x,), gather=1, scatter=2, size=3)[0],
        parallel.cfg_shard(x),
        parallel.cfg_gather(x),
        parallel.gather_rows(x[0, 0])[0],
    ):
        assert output.data_ptr() == x.data_ptr()
    assert list(parallel.own(range(5))) == list(range(5))
    assert (parallel.dp.rank, parallel.replica.rank) == (0, 0)
    parallel.agree("anything", 1, 2)


def test_one_device_works_when_it_is_asked():
    ran, done = [], []
    results = Parallel().map(lambda x: ran.append(1) or x + 1, [torch.zeros(1)] * 3, done.append)
    assert ran == []  # memory is needed for one result at a time
    assert next(results).item() == 1
    assert (len(ran), done) == (1, [0])
    assert len(list(results)) == 2


def test_shards_are_those_of_tensor_split():
    for size, count in product(range(12), range(1, 6)):
        assert ops.shard_sizes(size, count) == [len(x) for x in torch.arange(size).tensor_split(count)]


def test_work_is_shared_by_its_size():
    assert ops.balanced([1, 1, 1, 1, 1], 3) == [0, 1, 2, 0, 1]
    owners = ops.balanced([9, 1, 1, 8, 2, 2], 2)
    assert [
        sum(cost for cost, owner in zip([9, 1, 1, 8, 2, 2], owners) if owner == rank) for rank in (0, 1)
    ] == [12, 11]
