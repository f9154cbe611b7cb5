"""What Snakemake would request of a cluster, as JSON: `python -m cm.cost.dry_run TARGET --profile NAME ...`.

Snakemake itself reads the profiles and decides on the jobs, in a dry run that takes every file for missing. It does so
in a process of its own, because it changes the state of the one that it runs in.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any

from snakemake.api import SnakemakeApi
from snakemake.cli import parse_args, parse_config
from snakemake.settings.types import (
    ConfigSettings,
    DAGSettings,
    ExecutionSettings,
    GroupSettings,
    OutputSettings,
    ResourceSettings,
)
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

from cm.cost.requests import Request
from cm.errors import UserError


def list_requests(arguments: Sequence[str]) -> dict[str, Any]:
    """What `snakemake` with these arguments requests: the fields of a `cm.cost.requests.Plan`, without its command.

    Raises UserError if the profiles submit nothing, and whatever Snakemake raises for a mistake.
    """
    _, options = parse_args(list(arguments))
    executor = ExecutorPluginRegistry().get_plugin(options.executor or "local")
    if executor.common_settings.local_exec:
        raise UserError(
            f"profile {' and '.join(options.profile)} submits no jobs: it states no executor for a cluster, such as "
            "'executor: slurm'"
        )
    output = OutputSettings(dryrun=True, log_level_override=logging.CRITICAL, enable_file_logging=False)
    with SnakemakeApi(output) as api:
        workflow = _run_dry(api, options)
        workflow._executor_plugin = executor  # that of the dry run takes every job as one that runs here
        requests = [dataclasses.asdict(_request(job, workflow)) for job in _distinct_jobs(workflow)]
        gpus = workflow.global_resources.get("gpu")
    return {"jobs": options.jobs, "gpus": gpus.value if gpus else None, "requests": requests}


def _run_dry(api: SnakemakeApi, options: Namespace) -> Any:
    """The workflow of Snakemake after a dry run."""
    workflow = api.workflow(
        resource_settings=ResourceSettings(
            cores=options.cores,
            nodes=options.jobs,
            max_threads=options.max_threads,
            resources=options.resources,
            overwrite_threads=options.set_threads,
            overwrite_resource_scopes=options.set_resource_scopes,
            overwrite_resources=options.set_resources,
            default_resources=options.default_resources,
        ),
        config_settings=ConfigSettings(config=parse_config(options.config), config_args=options.config),
        snakefile=options.snakefile,
        workdir=options.directory,
    )
    workflow.dag(DAGSettings(targets=set(options.targets), forceall=True)).execute_workflow(
        executor=options.executor,
        pseudo_executor="dryrun",
        execution_settings=ExecutionSettings(lock=False, ignore_incomplete=True, retries=options.retries),
        group_settings=GroupSettings(overwrite_groups=options.groups, group_components=options.group_components),
    )
    return workflow._workflow


def _distinct_jobs(workflow: Any) -> Iterator[Any]:
    """Every job, and instead of the jobs of a group (`groups` of a profile), which are submitted as one, that group."""
    groups = {}
    for job in workflow.dag.jobs:
        if group := workflow.dag.get_job_group(job):
            groups[group.groupid, group.jobs] = group
        else:
            yield job
    for group in groups.values():
        # A new one, because the dry run has kept the resources that this one would have where Snakemake runs.
        remade = type(group)(group.groupid, group.jobs, group.global_resources)
        remade.finalize()
        yield remade


def _request(job: Any, workflow: Any) -> Request:
    resources = {name: value for name, value in job.resources.items() if isinstance(value, int)}
    local, cores = job.is_local, resources.get("cpus_per_task") or job.threads
    each = resources.get("mem_mb_per_cpu")
    return Request(
        rule=f"{job.groupid} ({', '.join(sorted(job.rules))})" if job.is_group() else job.rule.name,
        local=local,
        submitted=not local or _submits_itself(job, workflow),
        retries=job.restart_times,
        gpus=resources.get("gpu", 1 if job.resources.get("gpu_model") else 0),
        nodes=resources.get("nodes", 1),
        tasks=resources.get("tasks", 1),
        cores=cores,
        memory=each * cores if each else resources.get("mem_mb"),
        minutes=resources.get("runtime"),
    )


def _submits_itself(job: Any, workflow: Any) -> bool:
    """Whether a rule that runs where Snakemake runs states GPUs or a run time: those of a job that it submits.

    `default-resources` do not count, because they are given to every rule.
    """
    _, written = job.rule.ruleinfo.resources or ((), {})
    stated = {*written, *workflow.resource_settings.overwrite_resources.get(job.rule.name, {})}
    return any(job.resources.get(name) for name in stated & {"gpu", "runtime"})


def main(arguments: Sequence[str]) -> int:
    """Print the requests, or a mistake in one line."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            document = list_requests(arguments)
    except Exception as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
