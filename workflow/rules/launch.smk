# Trainings as jobs that outlive Snakemake. Under Slurm, `train` runs where Snakemake does and is light: `cm launch` submits
# the training, waits, and finds it again if Snakemake was killed. On one machine `cm launch` does the same for a training
# of several processes, and one of a single process is an ordinary job. Other executors submit `train` as any other rule.
from cm.utils import files

# Resources of a rule, and the options of sbatch that they mean; the executor plugin for Slurm has the same.
SBATCH_OPTIONS = {
    "slurm_account": "account",
    "slurm_partition": "partition",
    "clusters": "clusters",
    "constraint": "constraint",
    "qos": "qos",
    "reservation": "reservation",
    "mem_mb": "mem",
    "mem_mb_per_cpu": "mem-per-cpu",
    "gres": "gres",
    "gpu": "gpus",
}


onstart:
    if workflow.non_local_exec and workflow.executor_plugin.name != "slurm":
        workflow._localrules -= {"train", "train_curve"}


def is_on_slurm():
    """Whether Slurm runs the jobs of this workflow."""
    return workflow.executor_plugin is not None and workflow.executor_plugin.name == "slurm"


def train_threads(wildcards):
    """The processor cores that a training takes where Snakemake runs: it only waits there if Slurm runs it."""
    return 1 if is_on_slurm() else SUITE.threads


def torch_threads(wildcards, threads, resources):
    """The processor threads of a training: those that its job of Slurm requests, or those that it takes here."""
    return resources.cpus_per_task if is_on_slurm() else threads


def launch_options(wildcards, output, resources):
    """`cm launch ... --`, which makes the command that follows a job; nothing where the command runs at once."""
    if not is_on_slurm() and (workflow.non_local_exec or resources.gpu < 2):
        return ""
    run = run_of(wildcards)
    options = {
        "cluster": "slurm" if is_on_slurm() else "local",
        "folder": LAYOUT.jobs(run.name),
        "state": LAYOUT.state(run.name),
        "key": files.sha256(repr(run.recipe()).encode())[:16],
        "minutes": resources.runtime,
        "nodes": resources.nodes,
        "tasks": resources.tasks,
        "cpus-per-task": resources.cpus_per_task,
        "requeues": resources.requeues,
        "grace-seconds": resources.grace_seconds,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    for path in output:
        words += ["--output", path]
    if is_on_slurm():
        words += sbatch_words(resources)
    return shlex.join(["cm", "launch", *words, "--"])


def sbatch_words(resources):
    """`--sbatch account=NAME --sbatch mem=32000`, what the resources and the options of the executor mean to sbatch."""
    given = {option: resources.get(name) for name, option in SBATCH_OPTIONS.items()}
    if given["mem-per-cpu"]:
        del given["mem"]
    for name in ("qos", "reservation"):
        given[name] = given[name] or getattr(workflow.executor_settings, name, None)
    pairs = [f"{name}={value}" for name, value in given.items() if value]
    pairs += [word.lstrip("-") for word in shlex.split(resources.get("slurm_extra", ""))]
    return [word for pair in pairs for word in ("--sbatch", pair)]
