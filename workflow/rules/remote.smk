# Snakemake gives a job to another machine as `--target-jobs RULE:WILDCARD=VALUE,WILDCARD=VALUE` and reads that back by
# splitting it at every comma (https://github.com/snakemake/snakemake/issues/2366), which breaks values such as
# `ode,solver~heun,steps~18`. So a comma within a value is written as %2C on the way, and read as a comma again.
from snakemake_interface_executor_plugins.executors import real
from snakemake_interface_executor_plugins.utils import TargetSpec


def encode_target_jobs(specs):
    """The values of `--target-jobs` for jobs, without commas in the values of wildcards."""
    texts = []
    for spec in specs:
        pairs = [f"{name}={value.replace(',', '%2C')}" for name, value in spec.wildcards_dict.items()]
        texts.append(f"{spec.rulename}:{','.join(pairs)}")
    return texts


def decode_wildcards(spec):
    """The wildcards of a job that was given by `--target-jobs`."""
    return {name: value.replace("%2C", ",") for name, value in spec[1].items()}


real.encode_target_jobs_cli_args = encode_target_jobs
TargetSpec.wildcards_dict = property(decode_wildcards)
