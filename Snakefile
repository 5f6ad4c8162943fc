# From hospital records to a measured generator of synthetic patients.
#
#     snakemake -n --profile profiles/local     what would run, and why
#     snakemake --profile profiles/local        run what is stale

from snakemake.utils import min_version

min_version("9.0")


configfile: "config.yaml"


# Documents the interpreter; used only with `--software-deployment-method apptainer`.
container: "docker://python:3.11"


include: "workflow/rules/common.smk"


pathvars:
    results=SETTINGS.results_dir,
    logs="<results>/logs",
    benchmarks="<results>/benchmarks",


wildcard_constraints:
    experiment="|".join(EXPERIMENTS),
    part="[0-9]{5}-of-[0-9]{5}",
    shard="[0-9]{5}",


include: "workflow/rules/cohort.smk"
include: "workflow/rules/model.smk"
include: "workflow/rules/evaluation.smk"


localrules:
    all,


rule all:
    default_target: True
    input:
        "<results>/report/report.html",
        "<results>/report/report.json",
