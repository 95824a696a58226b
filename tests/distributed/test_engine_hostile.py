"""A hostile rank in a group, and one below an engine: the same clear error everywhere, and nothing runs."""

from __future__ import annotations

import json
import multiprocessing
import socket

import pytest

from tests.distributed import fakes, hostile_ranks
from tests.hostile import hostile
from videosys import OpenSoraConfig, ParallelConfig
from videosys.engine.codec import MAX_MESSAGE_BYTES
from videosys.engine.failure import RankError
from videosys.engine.pool import Pool
from videosys.engine.rank import LOST_PEER

PARTS = {"transformer": "bundled:opensora/transformer", "vae": "bundled:opensora/vae"}
PARTS |= {"text_encoder": "bundled:opensora", "device": "cpu"}
PATIENCE = 300.0

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]


def reports(work, world_size, folder):
    """What each of some processes wrote down."""
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=work, args=(rank, world_size, folder), daemon=True)
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * world_size
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world_size)]


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_hostile_rank_of_a_group_is_an_error_on_all_ranks_and_runs_nothing(world_size, tmp_path):
    (tmp_path / "hostile_marker.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    errors = reports(hostile_ranks.work, world_size, tmp_path)
    assert errors == [errors[0]] * world_size
    assert errors[0].pop("honest") == [f"rank {rank}" for rank in range(world_size)]
    assert not errors[0].pop("modules")
    assert errors[0].pop("another type") == "rank 1 sends a dict; expected: str"
    assert errors[0].keys() == {name for name, (data, _) in hostile("").items() if data}
    start = "rank 1: a message from another process is refused: "
    assert all(error.startswith(start) for error in errors[0].values())
    assert not (tmp_path / "ran").exists()


def test_sizes_that_cannot_be_and_a_rank_that_ends_are_errors_for_the_others(tmp_path):
    honest, _ = reports(hostile_ranks.announce, 2, tmp_path)
    gone = honest.pop("gone")
    assert honest.pop("honest") == ["rank 0", "rank 1"]  # after all of them, the group is in step
    assert honest == {
        str(size): f"rank 1 sends {size} bytes; it must be 1 to {MAX_MESSAGE_BYTES}"
        for size in hostile_ranks.SIZES
    }
    assert LOST_PEER.search(gone)


def test_who_talks_nonsense_to_the_meeting_place_of_the_ranks_changes_nothing(tmp_path):
    pool, config = make_pool("build")
    assert [output.prompts for output in pool.stream(["a"], config, {})] == [["a"]]
    port = pool._processes.store.port
    for content in (b"GET / HTTP/1.1\r\n\r\n", bytes(64), b"\xff" * 4096):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(content)
    assert [output.prompts for output in pool.stream(["b"], config, {})] == [["b"]]
    pool.close()


def make_pool(build, **options):
    parallel = ParallelConfig(num_gpus=2, timeout=PATIENCE)
    config = OpenSoraConfig(**PARTS, seed=1, parallel=parallel)
    return Pool(config, quiet=True, build=f"{fakes.HERE}:{build}", **options), config


def test_a_rank_that_sends_what_is_no_message_is_named(tmp_path):
    pool, config = make_pool("build")
    with pytest.raises(RankError, match=r"^rank 1 of 2: MessageError: .*class 'os:system' is not allowed"):
        list(pool.stream([f"forge {tmp_path / 'ran'}"], config, {}))
    assert not (tmp_path / "ran").exists()
    assert [output.prompts for output in pool.stream(["a"], config, {})] == [["a"]]
    pool.close()


def test_a_rank_that_gets_what_is_no_message_says_so(tmp_path):
    pool, config = make_pool("build")
    list(pool.stream(["a"], config, {}))
    pool._processes.wires[1].connection.send_bytes(hostile(f"touch {tmp_path / 'ran'}")["shell"][0])
    with pytest.raises(RankError, match=r"^rank 1 of 2: a message .*class 'os:system' is not allowed"):
        list(pool.stream(["a"], config, {}))
    assert not (tmp_path / "ran").exists()


def test_ranks_import_plugins_before_the_first_message(tmp_path, monkeypatch):
    program = (
        "import os, torch\ntorch.set_default_dtype(torch.float64)\nos.environ['THEIR_PLUGIN'] = 'imported'"
    )
    (tmp_path / "their_plugin.py").write_text(program)
    monkeypatch.syspath_prepend(str(tmp_path))
    pool, config = make_pool("build_with_plugin", plugins=["their_plugin"])
    assert [output.prompts for output in pool.stream(["a"], config, {})] == [["a"]]
    pool.close()


def test_a_plugin_that_cannot_be_imported_is_named():
    pool, config = make_pool("build", plugins=["no_such_plugin"])
    with pytest.raises(RankError, match=r"^rank [01] of 2: ModuleNotFoundError: No module named 'no_such_pl"):
        list(pool.stream(["a"], config, {}))


def test_what_the_script_itself_registers_is_refused_before_anything_starts(monkeypatch):
    monkeypatch.setattr("videosys.engine.pool.Processes", None)
    with pytest.raises(ValueError, match="must be registered in a module that the script imports"):
        make_pool("build", plugins=["videosys", "__main__"])
