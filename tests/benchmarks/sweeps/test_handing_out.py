"""What happens to studies that are torn, lost, or left behind by processes elsewhere."""

import json
import os
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from paceline.benchmarks.sweeps import handing_out
from paceline.benchmarks.sweeps.drawing import suggest
from paceline.benchmarks.sweeps.handing_out import (
    BEAT,
    PROCESS,
    counted,
    hand_out,
    queue,
)
from paceline.benchmarks.sweeps.studies import Studies
from paceline.benchmarks.trials.environment import is_gone, process_name, this_process
from paceline.benchmarks.trials.store import StoreError
from paceline.lightning_modules.backend.search import Choice, Integer, Real

ELSEWHERE = "another-host 01234567 4026531836/17/123456"


def draw(trial: optuna.Trial) -> None:
    suggest(trial, "x", Real(0, 1))


def filled(file: Path, trials: int = 3) -> list[float]:
    """The values of a study's finished trials, written into a journal."""
    study = Studies(str(file)).study("s")
    for number in range(trials):
        study.tell(hand_out(study, 9, draw, "random"), number)
    return [trial.values[0] for trial in study.trials]


# A journal that is torn


@pytest.mark.parametrize("bytes_lost", [1, 2, 20])
def test_of_a_torn_journal_the_last_line_is_dropped_and_kept_beside_it(
    tmp_path: Path, bytes_lost: int
) -> None:
    file = tmp_path / "studies.journal"
    values = filled(file)
    lines = file.read_bytes().splitlines(keepends=True)
    os.truncate(file, file.stat().st_size - bytes_lost)
    studies = Studies(str(file))
    assert studies.mended == (
        f"{file} was torn, by a power cut or a full disk: its last {len(lines[-1]) - bytes_lost} bytes"
        " were no whole line and are in studies.journal.torn now"
    )
    assert file.read_bytes() == b"".join(lines[:-1])
    assert (tmp_path / "studies.journal.torn").read_bytes() == lines[-1][:-bytes_lost]
    study = studies.study("s")
    assert [t.values for t in study.trials if t.state.is_finished()] == [[v] for v in values[:-1]]
    study.tell(hand_out(study, 9, draw, "random"), 7.0)
    assert Studies(str(file)).mended is None
    assert 7.0 in [t.value for t in Studies(str(file)).study("s").trials]


@pytest.mark.parametrize(
    "end", [bytes(512), b"\xff\xfe{", b"{}}\n", b"17\n", b'{"op_code":\n', b"\n"]
)
def test_what_is_no_line_at_the_end_of_a_journal_is_cut_off(tmp_path: Path, end: bytes) -> None:
    file = tmp_path / "studies.journal"
    values = filled(file)
    with file.open("ab") as stream:
        stream.write(end)
    studies = Studies(str(file))
    assert studies.mended
    assert [trial.value for trial in studies.study("s").trials] == values


def test_a_line_that_was_put_behind_a_torn_one_is_cut_off_with_it(tmp_path: Path) -> None:
    file = tmp_path / "studies.journal"
    values = filled(file)
    os.truncate(file, file.stat().st_size - 20)
    with file.open("ab") as stream:
        stream.write(json.dumps({"op_code": 0}).encode() + b"\n")
    study = Studies(str(file)).study("s")
    assert [t.value for t in study.trials if t.state.is_finished()] == values[:-1]


def test_a_journal_that_is_damaged_in_its_middle_is_refused_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "studies.journal"
    filled(file)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:4], bytes(50) + b"\n", *lines[5:]]))
    before = file.read_bytes()
    with pytest.raises(
        StoreError, match=rf"line 5 of {file} is damaged, and whole lines follow it; "
    ):
        Studies(str(file))
    assert file.read_bytes() == before


# Processes elsewhere


@pytest.mark.parametrize("uri", ["{}/studies.journal", "sqlite:///{}/studies.db"])
def test_the_trial_of_a_host_that_is_gone_is_taken_back_on_every_storage(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = Studies(uri.format(tmp_path), heartbeat_s=10)
    study = studies.study("s")
    lost = hand_out(study, 1, draw, "random", studies.signs)
    lost.set_user_attr(PROCESS, ELSEWHERE)
    now = [100.0]
    monkeypatch.setattr(handing_out.time, "monotonic", lambda: now[0])

    def asked() -> optuna.Trial | None:
        return hand_out(study, 1, draw, "random", studies.signs)

    assert asked() is None
    now[0] += 20
    assert asked() is None
    lost.set_user_attr(BEAT, 1)  # it lives
    assert asked() is None
    now[0] += 20
    assert asked() is None
    now[0] += 1
    again = asked()
    assert again is not None
    assert again.params == lost.params
    assert again.user_attrs[PROCESS] == this_process()
    assert len(counted(study.trials)) == 1


@pytest.mark.parametrize("uri", ["{}/studies.journal", "sqlite:///{}/studies.db"])
def test_a_running_trial_gives_signs_of_life_until_it_ends(tmp_path: Path, uri: str) -> None:
    studies = Studies(uri.format(tmp_path), heartbeat_s=0.05)
    study = studies.study("s")
    trial = hand_out(study, 1, draw, "random", studies.signs)
    with studies.heartbeats(trial):
        deadline = time.monotonic() + 60
        while study.trials[0].user_attrs.get(BEAT, 0) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        study.tell(trial, 1.0)
        time.sleep(0.2)  # a beat after the end is no error
    assert study.trials[0].state == TrialState.COMPLETE


def test_a_process_is_known_by_where_and_when_it_began() -> None:
    mine = this_process()
    assert not is_gone(mine)
    place, number, began = mine.rsplit("/", 2)
    assert is_gone(f"{place}/{number}/{int(began) - 1}"), "another had the number before"
    assert is_gone(f"{place}/{2**22 + 1}/{began}"), "there is no such number"
    assert not is_gone(process_name(os.getppid()))
    assert not is_gone(f"another-host{place}/{number}/1")
    host, boot, namespace = place.split(" ")
    assert not is_gone(f"{host} 00000000 {namespace}/{number}/1"), "another machine of the name"
    assert not is_gone(f"{host} {boot} 1/{number}/1"), "another container of the name"


# Small spaces


def batch(trial: optuna.Trial) -> None:
    suggest(trial, "batch", Choice((1, 2, 4, 8, 16, 32, 64, 128)))


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2"])
def test_a_budget_as_large_as_the_space_tries_all_of_it(tmp_path: Path, sampler: str) -> None:
    study = Studies(str(tmp_path / "studies.journal")).study("s")
    queue(study, [{"batch": 32}])
    tried = []
    while trial := hand_out(study, 8, batch, sampler):
        tried.append(trial.params["batch"])
        study.tell(trial, abs(trial.params["batch"] - 4))
    assert tried[0] == 32
    assert sorted(tried) == [1, 2, 4, 8, 16, 32, 64, 128]


def test_a_space_of_several_dimensions_is_tried_to_its_end(tmp_path: Path) -> None:
    def both(trial: optuna.Trial) -> None:
        suggest(trial, "tau", Integer(1, 3))
        suggest(trial, "kind", Choice(("a", "b")))

    study = Studies(str(tmp_path / "studies.journal")).study("s")
    tried = set()
    while trial := hand_out(study, 20, both, "tpe"):
        tried.add((trial.params["tau"], trial.params["kind"]))
        study.tell(trial, trial.params["tau"])
    assert tried == {(tau, kind) for tau in (1, 2, 3) for kind in "ab"}
    assert len(counted(study.trials)) == 6


# What another store has lost


def test_what_is_queued_again_is_tried_again_though_it_had_ended(tmp_path: Path) -> None:
    study = Studies(str(tmp_path / "studies.journal")).study("retrains")

    def seed(trial: optuna.Trial) -> None:
        trial.suggest_int("seed", 0, 99)

    queue(study, [{"seed": 7}], again=True)
    queue(study, [{"seed": 7}], again=True)
    study.tell(hand_out(study, 0, seed, "tpe"), 1.0)
    assert hand_out(study, 0, seed, "tpe") is None
    queue(study, [{"seed": 7}], again=True)
    again = hand_out(study, 0, seed, "tpe")
    assert again is not None
    assert again.params == {"seed": 7}
    again.set_user_attr(PROCESS, process_name(os.getppid()))
    queue(study, [{"seed": 7}], again=True)
    assert hand_out(study, 0, seed, "tpe") is None, "it is being run"
