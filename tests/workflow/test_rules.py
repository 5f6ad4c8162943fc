"""Rules, options, modules, sections and tests carry the stage's name; lint and profiles are sound."""

import os
import re
import shlex
from pathlib import Path

import pytest
import yaml

from promptehr.settings import Settings
from promptehr.stage_table import STAGES, Stage
from tests.workflow.checkout import ROOT, Checkout, fresh, jobs

EVERY = {
    **dict.fromkeys(("simulate", "ingest", "records", "vocabulary", "shards", "train"), 1),
    "generate": 4,
    "evaluate_likelihood": 1,
    "report": 1,
    **dict.fromkeys(("evaluate_fidelity", "evaluate_utility", "evaluate_privacy"), 4),
}


def bare(names: tuple[str, ...]) -> list[str]:
    return [name.rstrip("?*") for name in names]


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[str]]]:
    """Stage to the words of each of its jobs' commands, on a fresh checkout; parts as well."""
    divided = "shards: {count: 2}\ngenerate: {parts: 2}\n"
    output = fresh(tmp_path_factory.mktemp("commands") / "checkout").with_settings(divided).dry_run("-p")
    found = [shlex.split(line) for line in re.findall(r"promptehr \w+ --.*", output)]
    return {stage.name: [words for words in found if words[1] == stage.name] for stage in STAGES}


def options(words: list[str]) -> list[str]:
    named = [word.removeprefix("--").replace("-", "_") for word in words if word.startswith("--")]
    return list(dict.fromkeys(named))


def test_lint_finds_nothing(checkout: Checkout) -> None:
    done = checkout.snakemake("--lint")
    assert (done.returncode, done.stdout) == (0, "Congratulations, your workflow is in a good condition!\n")


@pytest.mark.parametrize("profile", ["local", "demo", "slurm"])
def test_a_dry_run_under_each_profile_would_run_everything(checkout: Checkout, profile: str) -> None:
    assert jobs(checkout.dry_run("--profile", f"profiles/{profile}")) == EVERY


def test_a_dry_run_writes_no_results(checkout: Checkout) -> None:
    checkout.dry_run()
    assert not (checkout.folder / "results").exists()


def test_training_asks_for_one_gpu_32_gib_four_cores_and_a_day(checkout: Checkout) -> None:
    output = checkout.dry_run("--profile", "profiles/slurm", "--cores", "8")
    train = output.partition("\nrule train:")[2].partition("\nrule ")[0]
    for figure in ("threads: 4", "gpu=1", "mem_mb=32768", "runtime=1440"):
        assert re.search(rf"\b{figure}\b", train), train


def test_no_gpu_is_asked_for_where_the_settings_say_cpu(checkout: Checkout) -> None:
    assert "gpu=1" not in checkout.with_settings("runtime: {device: cpu}\n").dry_run()


def test_the_start_names_the_settings_files_in_force(checkout: Checkout) -> None:
    output = checkout.with_settings("results_dir: elsewhere\n").dry_run()
    assert "settings: config.yaml, overlay-0.yaml; results: elsewhere\n" in output


def test_a_job_that_finds_other_settings_than_its_run_ends(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (checkout.folder / "Snakefile").open("a") as file:
        file.write('\nprint("started with", os.environ.get(RUN), file=sys.stderr)\n')
    found = re.search(r"^started with (\w{64})$", checkout.dry_run(), flags=re.MULTILINE)
    assert found
    monkeypatch.setenv("PROMPTEHR_STARTED_WITH", found[1])
    same = checkout.with_settings("runtime: {threads: 1}\n")
    assert same.snakemake("-n", "--mode", "remote").returncode == 0
    done = checkout.with_settings("train: {seed: 7}\n").snakemake("-n", "--mode", "remote")
    changed = "promptehr: settings or code changed after this job was submitted; give the same command again"
    assert (done.returncode, changed in done.stdout) == (2, True)
    monkeypatch.delenv("PROMPTEHR_STARTED_WITH")
    assert checkout.snakemake("-n", "--mode", "remote").returncode == 0


def test_a_profile_is_for_slurm_with_any_of_its_lines(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", os.devnull)
    profile = "profiles/slurm/config.yaml"
    checkout.edit(profile, """  slurm_extra: "'--signal""", """  # slurm_extra: "'--signal""")
    checkout.edit(profile, "  # slurm_partition: NAME ", "  slurm_partition: NAME ")
    done = checkout.snakemake("--profile", "profiles/slurm")
    assert done.returncode == 2
    assert "promptehr: sinfo: no SLURM answers here" in done.stdout


def test_the_profiles_line_with_mail_takes_the_place_of_the_one_without(checkout: Checkout) -> None:
    checkout.edit("profiles/slurm/config.yaml", "  # slurm_extra: ", "  slurm_extra: ")
    checkout.edit("profiles/slurm/config.yaml", "ADDRESS", "ada@example.org")
    output = checkout.dry_run("--profile", "profiles/slurm", "--cores", "8")
    assert "--mail-user=ada@example.org" in output.partition("\nrule train:")[2].partition("\nrule ")[0]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_is_one_word_everywhere(stage: Stage) -> None:
    rules = "".join(path.read_text() for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")))
    assert len(re.findall(rf"^ *rule {stage.name}:$", rules, flags=re.MULTILINE)) == 1
    for text in (f'"<logs>/{stage.name}.', f'"<benchmarks>/{stage.name}.', f'**key("{stage.name}")'):
        assert rules.count(text) == 1, text
    assert (ROOT / "promptehr" / "stages" / f"{stage.name}.py").is_file()
    assert (ROOT / "tests" / "unit" / f"test_{stage.name}.py").is_file()
    assert stage.section in Settings.model_fields
    assert stage.section in yaml.safe_load((ROOT / "config.yaml").read_text())


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_rules_files_are_the_stages_options_in_order(
    stage: Stage, commands: dict[str, list[list[str]]]
) -> None:
    runtime = [*Settings().runtime.model_dump()] if stage.runtime else []
    assert commands[stage.name]
    for words in commands[stage.name]:
        given = options(words)
        optional = {name.rstrip("?*") for name in stage.inputs if name[-1] in "?*"} - set(given)
        assert given == [
            *(name for name in bare(stage.inputs) if name not in optional),
            *bare(stage.outputs),
            *runtime,
            "log",
        ]


def test_an_experiment_without_a_model_reads_none(commands: dict[str, list[list[str]]]) -> None:
    with_model = {
        next(word for word in words if word.startswith("generate.method=")): "--model" in words
        for words in commands["generate"]
    }
    assert with_model == {
        f'generate.method="{m}"': m == "model" for m in ("model", "unigram", "bigram", "copy")
    }


def test_parts_of_a_model_fan_out_and_generate_merges_them(checkout: Checkout) -> None:
    output = checkout.with_settings("generate: {parts: 3}\n").dry_run("-p")
    assert jobs(output) == EVERY | {"generate_part": 3}
    folder = "results/generate/base/parts"
    names = [f"{folder}/0000{number}-of-00003" for number in range(3)]
    found = [shlex.split(line) for line in re.findall(r"promptehr generate\w* --.*", output)]
    written = {words[words.index("--part") + 1] for words in found if "--part" in words}
    assert written == {f"{name}.parquet" for name in names}
    [merging] = [words for words in found if "--parts" in words]
    given = [word for word in merging if word.startswith(folder)]
    assert given == [*(f"{name}.parquet" for name in names), *(f"{name}.json" for name in names)]


def test_shards_fan_out_and_are_put_together(checkout: Checkout) -> None:
    output = checkout.with_settings("shards: {count: 3}\n").dry_run("-p", "--profile", "profiles/slurm")
    assert jobs(output) == EVERY | {"shards_part": 3}
    summaries = [f"results/shards/0000{number}.json" for number in range(3)]
    found = [shlex.split(line) for line in re.findall(r"promptehr shards\w* --.*", output)]
    written = {words[words.index("--part-summary") + 1] for words in found if "--part-summary" in words}
    assert written == set(summaries)
    [listing] = [words for words in found if "--part-summaries" in words]
    assert [word for word in listing if word in summaries] == summaries


@pytest.mark.parametrize(("count", "with_them"), [(1, ["shards"]), (2, [])])
def test_shards_share_the_light_stages_job_unless_they_fan_out(
    checkout: Checkout, count: int, with_them: list[str]
) -> None:
    divided = checkout.with_settings(f"shards: {{count: {count}}}\n")
    output = divided.dry_run("--profile", "profiles/slurm", "--cores", "8")
    group = output.partition("Group job cohort ")[2].partition("\nrule ")[0]
    shared = re.findall(r"^    rule (\w+):", group, flags=re.MULTILINE)
    assert sorted(shared) == sorted(["simulate", "ingest", "records", "vocabulary", *with_them])


def test_files_that_settings_name_are_inputs_of_generate(checkout: Checkout) -> None:
    (checkout.folder / "given.parquet").touch()
    given = checkout.with_settings("experiments: {base: {generate: {demographics: given.parquet}}}\n")
    assert "--demographics given.parquet" in given.dry_run("-p")


def test_a_checkpoint_that_settings_name_is_an_input_of_train(checkout: Checkout) -> None:
    (checkout.folder / "bart").mkdir()
    for name in ("config.json", "model.safetensors"):
        (checkout.folder / "bart" / name).touch()
    given = checkout.with_settings("experiments: {base: {train: {init_from: bart}}}\n")
    printed = given.dry_run("-p")
    assert "--init-from bart " in printed
    assert "train.init_from=" not in printed


def test_every_section_of_the_settings_belongs_to_a_stage_or_to_all() -> None:
    others = {"results_dir", "source", "runtime", "experiments"}
    assert set(Settings.model_fields) - others == {stage.section for stage in STAGES}


def test_the_entry_is_short_and_the_rules_hold_no_python() -> None:
    assert len((ROOT / "Snakefile").read_text().splitlines()) < 50
    for name in ("cohort", "model", "evaluation"):
        text = (ROOT / "workflow" / "rules" / f"{name}.smk").read_text()
        assert not re.findall(r"^\s*(def|import|from|for|with) ", text, flags=re.MULTILINE)


def test_nobodys_name_or_address_stands_in_a_profile() -> None:
    for path in Path(ROOT / "profiles").rglob("*.yaml"):
        assert not re.search(r"@[\w-]+\.", path.read_text())


def test_every_rule_stands_in_the_table_of_what_a_cluster_is_asked_for() -> None:
    page = (ROOT / "docs" / "cluster.md").read_text("utf-8")
    table = page.partition("## What is asked for")[2].partition("\n\n")[0]
    assert [stage.name for stage in STAGES if f"`{stage.name}`" not in table] == []


def test_the_profiles_lines_take_every_rule_but_training_off_the_gpu(checkout: Checkout) -> None:
    profile = "profiles/slurm/config.yaml"
    off = re.findall(r"^#   (\w+): \{gpu: 0\}", (ROOT / profile).read_text("utf-8"), flags=re.MULTILINE)
    checkout.edit(profile, "# set-resources:", "set-resources:")
    for rule in off:
        checkout.edit(profile, f"#   {rule}: {{gpu: 0}}", f"  {rule}: {{gpu: 0}}")
    divided = checkout.with_settings("generate: {parts: 2}\n")
    output = divided.dry_run("--profile", "profiles/slurm", "--cores", "8")
    asking = re.findall(r"rule (\w+):(?:(?!\brule ).)*?\bgpu=1\b", output, flags=re.DOTALL)
    assert asking == ["train"]
    rules = "".join(path.read_text("utf-8") for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    with_gpu = re.findall(r"^rule (\w+):(?:(?!^rule ).)*?gpu=", rules, flags=re.MULTILINE | re.DOTALL)
    assert sorted([*off, "train"]) == sorted(with_gpu)
