"""A small load test: clients that go on while workers and the server are killed."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from eval.serving.__main__ import main
from eval.serving.clients import Tally
from eval.serving.load import Load, Outcome, make_trouble, run, table

NEEDED = ("fastapi", "sqlalchemy", "uvicorn", "prometheus_client")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_nothing_is_lost_or_made_twice_under_load_and_kills(tmp_path):
    for module in NEEDED:
        pytest.importorskip(module, reason=f"{module} of the extra 'serve' is not installed")
    load = Load(videos=24, clients=4, keys=2, kills=4)
    outcome = run(load, tmp_path)
    assert outcome.killed == {"worker": 3, "server": 1}
    assert (len(outcome.tally.accepted), outcome.lost, outcome.twice) == (load.videos, 0, 0), table(outcome)
    assert outcome.overtaken == 0, table(outcome)
    assert outcome.lead <= 1 + load.kills, table(outcome)  # a kill moves a turn
    # Memory is not judged: in so short a run a worker that was killed is still loading its model.


@pytest.mark.parametrize(
    ("name", "value"), [("clients", 0), ("keys", 0), ("workers", -1), ("kills", -1), ("pause", float("nan"))]
)
def test_loads_that_cannot_be_are_refused(capsys, name, value):
    assert main([f"--{name}={value}"]) == 2
    assert f"error: --{name} is {value}; it must be a finite number of" in capsys.readouterr().err


@pytest.mark.parametrize(("videos", "workers"), [(1, 1), (3, 2), (24, 4)])
def test_memory_is_measured_also_where_few_videos_are_left(monkeypatch, videos, workers):
    def wait(condition, what):
        assert condition(), what
        return True

    monkeypatch.setattr("eval.serving.load.wait", wait)
    server = SimpleNamespace(workers=lambda: [0] * workers, memory=lambda: [1.0])
    outcome = Outcome(Load(videos=videos, workers=workers, kills=0), Tally(), [], [], Counter())
    outcome.tally.ended.update({str(video): ("completed", 1, 5) for video in range(videos)})
    make_trouble(server, outcome)
    assert outcome.memory == [[1.0]]


def outcome_of(rows, made=(), **tally):
    again = Counter(dict.fromkeys(made, 2))
    return Outcome(Load(), Tally(**tally), [1.0], rows, again, memory=[[100.0, 50.0], [101.0, 54.0]])


def test_the_measures_see_what_is_wrong():
    # (owner, number, created, started, attempt)
    turns = [("a", 1, 0.0, 1.0, 1), ("b", 2, 0.0, 2.0, 1), ("a", 3, 0.0, 3.0, 1), ("b", 4, 0.0, 4.0, 1)]
    accepted = dict(zip("abcd", ("video_0", "video_1", "video_2", "video_3")))
    ended = dict.fromkeys(accepted.values(), ("completed", 1, 5))
    good = outcome_of(turns, accepted=accepted, ended=ended)
    assert (good.lost, good.twice, good.overtaken, good.lead, good.growth) == (0, 0, 0, 1, 4.0)
    assert outcome_of(turns, accepted=accepted, ended={}).lost == 4
    assert outcome_of(turns, ["video_1"], accepted=accepted, ended=ended).twice == 1
    assert outcome_of(turns, accepted=accepted, ended=ended, changed={"video_2"}).twice == 1
    assert outcome_of([*turns, ("a", 5, 0.0, 5.0, 1)], accepted=accepted, ended=ended).twice == 1
    swapped = [("a", 1, 0.0, 3.0, 1), ("a", 3, 0.0, 1.0, 1)]
    assert outcome_of(swapped).overtaken == 1
    assert outcome_of([("a", 1, 0.0, 3.0, 2), ("a", 3, 0.0, 1.0, 1)]).overtaken == 0  # a kill made it so
    greedy = [("a", number, 0.0, float(number), 1) for number in range(1, 6)] + [("b", 9, 0.0, 9.0, 1)]
    assert outcome_of([*greedy, ("a", 10, 0.0, 10.0, 1)]).lead == 5


def test_a_video_whose_end_changes_is_noticed():
    tally = Tally()
    video = {"id": "v", "status": "completed", "attempt": 1, "completed_at": 5}
    assert not tally.see(video | {"status": "queued"})
    assert tally.see(video)
    assert tally.see(video)
    assert tally.changed == set()
    assert tally.see(video | {"attempt": 2})
    assert tally.changed == {"v"}
    other = Tally()
    other.see(video)
    assert not other.see(video | {"status": "in_progress"})
    assert other.changed == {"v"}
