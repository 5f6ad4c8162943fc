"""SLURM's answers, played by small programs that stand first on the PATH."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from promptehr import slurm
from promptehr.errors import SettingsError
from promptehr.slurm import Job, Line

CLUSTER = {"sinfo": "cpu\ngpu\n", "sacctmgr": "lab\nward\n"}
FOLDER = Path("/home/somebody/promptehr")


def with_answers(monkeypatch: pytest.MonkeyPatch, folder: Path, answers: Mapping[str, str]) -> None:
    """Only these commands exist, and each prints its answer."""
    folder.mkdir(exist_ok=True)
    for command, answer in answers.items():
        (folder / f"{command}.txt").write_text(answer)
        (folder / command).write_text(f"#!/bin/sh\nexec /bin/cat {folder / command}.txt\n")
        (folder / command).chmod(0o700)
    monkeypatch.setenv("PATH", str(folder))


def refusal(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, value: str) -> str:
    with_answers(monkeypatch, folder, CLUSTER)
    with pytest.raises(SettingsError) as caught:
        slurm.check([Line("default-resources", name, value)])
    return str(caught.value)


def row(number: int, state: str, rule: str, *, name: str = "promptehr_1", folder: Path = FOLDER) -> str:
    return f"{number}|{state}|{name}|{rule}|{folder}\n"


def test_lines_that_fit_the_cluster_pass(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_answers(monkeypatch, tmp_path, CLUSTER)
    slurm.check(
        [
            Line("default-resources", "slurm_partition", "cpu,gpu"),
            Line("default-resources", "slurm_account", "lab ward"),
            Line("default-resources", "slurm_extra", "--mail-type=END --mail-user=a.b@example.org"),
            Line("set-resources, train", "slurm_partition", "gpu"),
        ]
    )


def test_an_unknown_partition_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert refusal(monkeypatch, tmp_path, "slurm_partition", "gpus") == (
        "profile, default-resources: slurm_partition: this cluster has no partition gpus;"
        " choose from cpu, gpu"
    )


def test_a_rule_among_the_default_resources_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert refusal(monkeypatch, tmp_path, "train", "{'slurm_partition': 'gpu'}") == (
        "profile, default-resources: train: is a rule, which belongs under set-resources;"
        " take the # off that line too"
    )


def test_an_account_of_others_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    assert refusal(monkeypatch, tmp_path, "slurm_account", "office") == (
        "profile, default-resources: slurm_account: ada has no account office; choose from lab, ward"
    )


def test_accounts_are_not_checked_where_slurm_keeps_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    line = Line("default-resources", "slurm_account", "lab")
    with_answers(monkeypatch, tmp_path / "silent", {**CLUSTER, "sacctmgr": ""})
    slurm.check([line])
    with_answers(monkeypatch, tmp_path / "absent", {"sinfo": "cpu\n"})
    slurm.check([line])


@pytest.mark.parametrize("address", ["ADDRESS", "a@b", "a@b.org,c@d.org", "@example.org", ""])
def test_a_malformed_address_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert refusal(monkeypatch, tmp_path, "slurm_extra", f"--mail-user={address} --signal=TERM@300") == (
        f"profile, default-resources: slurm_extra: --mail-user={address} is no mail address;"
        " write name@example.org"
    )


def test_a_machine_without_slurm_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_answers(monkeypatch, tmp_path, {})
    with pytest.raises(SettingsError, match=r"^sinfo: no SLURM answers here; .*profiles/local$"):
        slurm.check([])


def test_only_the_jobs_of_this_folder_are_left_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    queue = [
        row(21, "RUNNING", "rule_train_wildcards_base"),
        row(7, "PENDING", "rule_cohort"),
        row(8, "RUNNING", "rule_train_wildcards_base", name="another"),
        row(9, "RUNNING", "rule_train_wildcards_base", folder=FOLDER / "copy"),
    ]
    with_answers(monkeypatch, tmp_path, {"squeue": "".join(queue)})
    jobs = slurm.left_behind(FOLDER)
    assert jobs == [Job("7", "PENDING", "rule_cohort"), Job("21", "RUNNING", "rule_train base")]
    assert str(jobs[1]) == "job 21 (rule_train base, running)"


def test_a_queue_that_does_not_answer_is_no_empty_queue(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_answers(monkeypatch, tmp_path, {})
    with pytest.raises(SettingsError, match=r"^squeue: SLURM does not answer; give the same command again"):
        slurm.left_behind(FOLDER)


def test_waiting_ends_when_the_jobs_have_left_the_queue(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    still_there = row(21, "RUNNING", "rule_train_wildcards_base")
    with_answers(monkeypatch, tmp_path, {"squeue": still_there})
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            (tmp_path / "squeue.txt").write_text(row(22, "RUNNING", "rule_train_wildcards_base"))

    slurm.wait_for(slurm.left_behind(FOLDER), FOLDER, tell=pytest.fail, sleep=nap)
    assert naps == [slurm.POLL_S] * 3


def test_waiting_goes_on_while_the_queue_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_answers(monkeypatch, tmp_path, {"squeue": row(21, "RUNNING", "rule_train_wildcards_base")})
    jobs = slurm.left_behind(FOLDER)
    os.rename(tmp_path / "squeue", tmp_path / "squeue-away")
    naps: list[float] = []
    told: list[str] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            (tmp_path / "squeue.txt").write_text("")
            os.rename(tmp_path / "squeue-away", tmp_path / "squeue")

    slurm.wait_for(jobs, FOLDER, tell=told.append, sleep=nap)
    assert len(naps) == 2
    assert told == ["squeue: SLURM does not answer; it is asked again until it does"]


def test_the_profile_names_its_jobs_so_that_they_are_found() -> None:
    profile = (Path(__file__).parents[2] / "profiles" / "slurm" / "config.yaml").read_text("utf-8")
    assert f"\nslurm-jobname-prefix: {slurm.PREFIX.rstrip('_')}\n" in profile
