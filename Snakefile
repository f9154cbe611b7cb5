# `snakemake` in this folder runs the workflow of workflow/Snakefile.
include: "workflow/Snakefile"


# Rules that are included are never the default target.
rule default:
    default_target: True
    input:
        rules.all.input,
    localrule: True
