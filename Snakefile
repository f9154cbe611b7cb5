# `snakemake` in this folder runs the workflow of workflow/Snakefile.
include: "workflow/Snakefile"
