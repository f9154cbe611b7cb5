# One suite of experiments from configuration to tables and figures: `snakemake all_tables`, `snakemake --config suite=NAME`.
from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/common.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/scores.smk"
include: "workflow/rules/artefacts.smk"


localrules:
    all_tables,
    all_figures,
    all,
    report,


rule all:
    default_target: True
    input:
        wanted(ARTEFACTS),


rule all_tables:
    input:
        wanted(SUITE.artefacts, "table"),


rule all_figures:
    input:
        wanted(SUITE.artefacts, "figure"),


rule report:
    input:
        rules.all.input,
    output:
        "reports/report.html",
    log:
        "results/logs/report.log",
    conda:
        "environment.yml"
    params:
        snakefile=workflow.snakefile,
        suite=SUITE_PATH,
    shell:
        "snakemake all --nolock --snakefile {params.snakefile} --config suite={params.suite} --report {output} > {log} 2>&1"
