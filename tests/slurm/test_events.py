"""What a user of the cluster sees and has to do, event by event, on a real SLURM."""

import re
from collections.abc import Callable

import pytest

from promptehr.stage_table import STAGES
from tests.slurm import cluster
from tests.slurm.events import ADDRESS, EPOCHS, Outcome
from tests.workflow.checkout import Checkout

pytestmark = pytest.mark.slurm

Outcomes = Callable[[str], Outcome]

INTERRUPTED = ("time_limit", "time_out", "scancel", "ctrl_c", "preemption", "killed_main_process")


def succeeded(outcome: Outcome) -> None:
    """The last run ended well; its output is the message where it did not."""
    assert outcome.runs[-1].status == 0, outcome.runs[-1].output[-4000:]


def training_took_up_where_it_was(checkout: Checkout) -> None:
    """The last attempt continued from a checkpoint, and at most the epoch that was cut off was repeated."""
    assert re.search(r"continuing after step [1-9]", cluster.training_log(checkout))
    assert sorted(set(cluster.epochs_trained(checkout))) == list(range(1, EPOCHS + 1))
    assert len(cluster.epochs_trained(checkout)) <= EPOCHS + 2


# --- the whole pipeline --------------------------------------------------------------------------


def test_the_pipeline_runs_to_its_report(outcome: Outcomes) -> None:
    done = outcome("pipeline")
    succeeded(done)
    assert (done.checkout.folder / "results/tiny/report/report.html").stat().st_size > 10_000


def test_training_is_given_a_gpu_32_gb_4_cores_and_a_day(outcome: Outcomes) -> None:
    [job] = cluster.trainings(outcome("pipeline").checkout)
    granted = {name: job[name] for name in ("NumCPUs", "TimeLimit", "Partition", "Account")}
    assert granted == {
        "NumCPUs": "4",
        "TimeLimit": "1-00:00:00",
        "Partition": "gpu",
        "Account": "lab",
    }
    assert re.fullmatch(r"cpu=4,mem=32G,node=1,billing=\d+,gres/gpu=1", job["TRES"])


def test_light_stages_share_jobs_and_the_queue_names_the_rules(outcome: Outcomes) -> None:
    names = [job["Comment"] for job in cluster.jobs(outcome("pipeline").checkout)]
    assert sorted(name for name in names if not name.startswith("rule_generate")) == [
        "rule_cohort_ingest_records_simulate_vocabulary",
        "rule_evaluate_likelihood_wildcards_base",
        "rule_evaluation_evaluate_fidelity_evaluate_privacy_evaluate_utility_report",
        "rule_shards",
        "rule_shards_part_wildcards_00000",
        "rule_shards_part_wildcards_00001",
        "rule_train_wildcards_base",
    ]


def test_models_use_a_gpu_and_a_line_of_the_profile_takes_likelihood_off_it(outcome: Outcomes) -> None:
    jobs = cluster.jobs(outcome("pipeline").checkout)
    with_gpu = {job["Comment"] for job in jobs if "gres/gpu=1" in job["TRES"]}
    assert "rule_train_wildcards_base" in with_gpu
    assert sum(name.startswith("rule_generate_part_wildcards_base") for name in with_gpu) == 2
    assert "rule_generate_wildcards_base" not in with_gpu, "it merges the parts"
    assert "rule_evaluate_likelihood_wildcards_base" not in with_gpu
    assert "rule_generate_wildcards_unigram" not in with_gpu


@pytest.mark.parametrize(
    ("event", "words"),
    [("pipeline", ("Began", "Ended")), ("failure", ("Began", "Failed")), ("preemption", ("Requeued",))],
)
def test_mail_says_what_happened_to_a_job(event: str, words: tuple[str, ...], outcome: Outcomes) -> None:
    job = cluster.trainings(outcome(event).checkout)[0]
    for word in words:
        assert re.search(rf"Job_id={job['JobId']} .* {word},.* {ADDRESS}", cluster.mail())


def test_no_stage_needs_a_network(outcome: Outcomes) -> None:
    done = outcome("pipeline")
    succeeded(done)
    noted = (done.checkout.folder / "without-network" / "routes").read_text("utf-8").splitlines()
    assert set(noted) == {f"{stage.name} 0" for stage in STAGES}


# --- interruptions -------------------------------------------------------------------------------


def test_a_failing_job_ends_the_workflow_with_its_log_shown(outcome: Outcomes) -> None:
    [run] = outcome("failure").runs
    assert run.status == 1
    assert "train.shape.positions: 20, but the longest train sequence" in run.output


def test_a_job_out_of_memory_is_repeated_with_twice_as_much(outcome: Outcomes) -> None:
    done = outcome("memory")
    succeeded(done)
    asked = [job["MinMemoryNode"] for job in cluster.trainings(done.checkout)]
    assert asked == ["500M", "1000M"]


def test_before_the_time_limit_training_saves_and_comes_back(outcome: Outcomes) -> None:
    done = outcome("time_limit")
    succeeded(done)
    states = [(job["JobState"], job["ExitCode"]) for job in cluster.trainings(done.checkout)]
    assert [state for state, _ in states] == ["FAILED", "COMPLETED"]
    assert "training stopped by SIGTERM after step" in done.runs[0].output
    training_took_up_where_it_was(done.checkout)


def test_a_job_that_runs_into_its_time_limit_is_repeated_and_resumes(outcome: Outcomes) -> None:
    done = outcome("time_out")
    succeeded(done)
    assert [job["JobState"] for job in cluster.trainings(done.checkout)] == ["TIMEOUT", "COMPLETED"]
    training_took_up_where_it_was(done.checkout)


def test_a_cancelled_job_ends_the_workflow_and_the_same_command_resumes(outcome: Outcomes) -> None:
    done = outcome("scancel")
    first, _ = done.runs
    cancelled, resumed = cluster.trainings(done.checkout)
    assert first.status == 1
    assert f"job {cancelled['JobId']} (rule_train base, cancelled): the run ends" in first.output
    assert (cancelled["JobState"], resumed["JobState"]) == ("CANCELLED", "COMPLETED")
    succeeded(done)
    training_took_up_where_it_was(done.checkout)


def test_ctrl_c_cancels_the_jobs_and_the_same_command_resumes(outcome: Outcomes) -> None:
    done = outcome("ctrl_c")
    assert done.runs[0].status == 1
    states = [job["JobState"] for job in cluster.trainings(done.checkout)]
    assert states == ["CANCELLED", "COMPLETED"]
    succeeded(done)
    training_took_up_where_it_was(done.checkout)


def test_a_preempted_job_comes_back_under_its_number(outcome: Outcomes) -> None:
    done = outcome("preemption")
    succeeded(done)
    [job] = cluster.trainings(done.checkout)
    # Twice, where it was let start before the urgent job had.
    assert job["Restarts"] in ("1", "2")
    assert job["JobState"] == "COMPLETED"
    training_took_up_where_it_was(done.checkout)


def test_after_a_killed_main_process_the_next_start_waits_and_trains_nothing_twice(
    outcome: Outcomes,
) -> None:
    done = outcome("killed_main_process")
    succeeded(done)
    assert f"a killed run left job {done.noted} (rule_train base, running)" in done.runs[0].output
    assert cluster.epochs_trained(done.checkout) == list(range(1, EPOCHS + 1))


@pytest.mark.parametrize("event", INTERRUPTED)
def test_an_interrupted_training_ends_with_the_bytes_of_an_undisturbed_one(
    event: str, outcome: Outcomes
) -> None:
    assert cluster.model(outcome(event).checkout) == cluster.model(outcome("memory").checkout)
