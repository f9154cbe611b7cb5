import functools
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.current_basedir).parents[1]

from cm import config as settings
from cm import registry
from cm.errors import UserError, unknown


def read_suite():
    """The suite that `--config suite=` names: a name in config/suites, or a path."""
    for key in config:
        if key != "suite":
            raise unknown("key", key, ["suite"], "--config")
    name = str(config.get("suite", "demo"))
    folder = ROOT / "config" / "suites"
    path = Path(name) if name.endswith(".yaml") else folder / f"{name}.yaml"
    if not path.is_file():
        raise unknown("suite", name, [known.stem for known in folder.glob("*.yaml")])
    path = Path(os.path.relpath(path))
    return path, settings.load_suite(path)


def check_targets(arguments):
    """Refuse a misspelt run or sampler in a file that is asked for by name, before any job starts."""
    named = re.compile(r"results/(?:images|models|samples|scores)/(?P<run>.+/seed\d+)/\d+(/(?P<sampler>.+))?\.\w+")
    for target in filter(None, map(named.fullmatch, arguments)):
        settings.load(target["run"], SUITE.experiments)
        if target["sampler"]:
            settings.sampler(target["sampler"])


try:
    SUITE_PATH, SUITE = read_suite()
    check_targets(sys.argv)
except UserError as error:
    raise WorkflowError(str(error)) from None

ARTEFACTS = {**SUITE.artefacts, **SUITE.ablations}
CURVED = sorted({cell.run.name for one in ARTEFACTS.values() for cell in SUITE.cells(one) if cell.progress != 100})
ANY_RUN = r"[^/]+/[^/]+/[^/]+/seed\d+"
RELEASED = r"[^/]+/[^/]+/[^/]*released~[^/]+/seed\d+"


def named(form):
    """Artefacts of exactly the forms in `form`: ("table",), ("figure",) or ("table", "figure")."""
    return [name for name, artefact in ARTEFACTS.items() if forms(artefact) == form]


def forms(artefact):
    """The forms an artefact is drawn in, table before figure."""
    form = registry.get("artefact", artefact.kind).form
    return ("table", "figure") if form == "both" else (form,)


def wanted(artefacts, form="both"):
    """The tables and, or, figures of artefacts, and what they are drawn from: a score that is missing is made again."""
    drawn = {"table": "reports/tables/{}.csv", "figure": "reports/figures/{}.svg"}
    names = [name for name in artefacts if form == "both" or form in forms(ARTEFACTS[name])]
    files = [drawn[one].format(name) for name in names for one in forms(ARTEFACTS[name]) if form in (one, "both")]
    return files + list(dict.fromkeys(path for name in names for path in drawn_from(name)))


def pattern(names):
    """A wildcard constraint that admits these names and nothing else."""
    return "|".join(map(re.escape, names)) or "(?!)"


def told(function):
    """The function, with a user's mistake as the workflow's one-line error."""

    @functools.wraps(function)
    def telling(*arguments, **named):
        try:
            return function(*arguments, **named)
        except UserError as error:
            raise WorkflowError(str(error)) from None

    return telling


@told
def run_of(wildcards):
    """The run a job is about."""
    return settings.load(wildcards.run, SUITE.experiments)


def model_of(run, progress=100):
    """The model file of a run, or the file of pretrained weights."""
    if isinstance(run, settings.Weights):
        return f"results/weights/{run.name}.safetensors"
    return f"results/models/{run.name}/{progress}.safetensors"


@told
def data_options(wildcards):
    """`--dataset NAME --source PATH --resolution 64`, as the `data:` of base.yaml says."""
    data = settings.data_of(wildcards.dataset, SUITE.experiments)
    given = {"dataset": data.name, "source": data.source, **data.settings}
    return " ".join(f"--{key} {shlex.quote(str(value))}" for key, value in given.items() if value is not None)


@told
def train_inputs(wildcards):
    """The data and the models that a training reads."""
    run = run_of(wildcards)
    others = settings.inputs(run, SUITE.experiments)
    data = {"images": f"results/data/{run.dataset}/train/images.npy"}
    return {**data, **{role: model_of(other) for role, other in others.items()}}


def train_options(wildcards, input):
    """`--teacher FILE --perceptual FILE`, those that the run has."""
    return " ".join(f"--{role} {path}" for role, path in input.items() if role != "images")


def run_settings(wildcards):
    """What a run is made of, so that an experiment file that means another run trains anew."""
    return run_of(wildcards).recipe()


@told
def sampled_model(wildcards):
    """The model to sample, once its sampler is known to be one."""
    settings.sampler(wildcards.sampler)
    return model_of(run_of(wildcards), wildcards.progress)


def sample_options(wildcards):
    """How the samples of a run are made for its score."""
    run = run_of(wildcards)
    evaluation = run.sections["evaluation"]
    flags = {"count": run.images, "rounding": run.protocol.rounding, "precision": evaluation.precision}
    given = " ".join(f"--{key} {value}" for key, value in {**flags, "batch": evaluation.batch}.items())
    return given + (" --clamp" if evaluation.clamp else "")


@told
def protocol_of(wildcards):
    """How images are scored: as the run says, or the data set, or by the protocol that the job is for."""
    if hasattr(wildcards, "run"):
        return run_of(wildcards).protocol
    if hasattr(wildcards, "protocol"):
        return settings.protocol(wildcards.protocol, SUITE.experiments)
    return settings.protocol_of(wildcards.dataset, SUITE.experiments)


def reference_images(wildcards):
    """The real images that a protocol compares with."""
    return f"results/data/{wildcards.dataset}/{protocol_of(wildcards).reference}/images.npy"


def protocol_path(wildcards):
    """The file of a protocol."""
    return protocol_of(wildcards).file


def protocol_settings(wildcards):
    """What a protocol says, so that another one scores anew."""
    return protocol_of(wildcards).settings()


@told
def score_inputs(wildcards):
    """Features of the reference images, and the extractor."""
    protocol = protocol_of(wildcards)
    dataset = run_of(wildcards).dataset if hasattr(wildcards, "run") else wildcards.dataset
    return {
        "reference": f"results/features/{dataset}/{protocol.name}.npz",
        "extractor": model_of(settings.judge(protocol.extractor, SUITE.experiments)),
    }


@told
def featurise_inputs(wildcards):
    """The data set, the extractor, and the statistics that a summary of features is of."""
    protocol = protocol_of(wildcards)
    files = {
        "manifest": f"results/data/{wildcards.dataset}/manifest.json",
        "extractor": model_of(settings.judge(protocol.extractor, SUITE.experiments)),
    }
    return files | ({"statistics": protocol.statistics_file} if protocol.statistics else {})


@told
def weights_at_hand(wildcards):
    """Nothing; a user's mistake, before anything starts, if weights are where no job could fetch them."""
    missing = registry.get("weights", wildcards.name).missing()
    if missing:
        raise UserError(missing)
    return []


def artefact_inputs(wildcards):
    """The files that a table or figure is drawn from."""
    return drawn_from(wildcards.name)


def drawn_from(name):
    """The files that the artefact of that name is drawn from."""
    artefact = ARTEFACTS[name]
    kind, cells = registry.get("artefact", artefact.kind), SUITE.cells(artefact)
    scores = [f"results/scores/{cell.path}.json" for cell in cells]
    files = {
        "nothing": [],
        "scores": scores,
        "samples": [f"results/samples/{cell.path}.npy" for cell in cells],
        "benchmarks": scores + [f"results/benchmarks/train/{cell.run.name}.tsv" for cell in cells],
    }
    datasets = dict.fromkeys(cell.run.dataset for cell in cells if kind.floor)
    tested = [dataset for dataset in datasets if "test" in settings.splits_of(dataset, SUITE.experiments)]
    floor = [f"results/scores/{dataset}/real/test.json" for dataset in tested]
    return list(dict.fromkeys(files[kind.needs])) + floor


def artefact_settings(wildcards):
    """What an artefact is made of, so that a changed suite file draws anew."""
    return repr(ARTEFACTS[wildcards.name])


def caption(wildcards):
    """The sentence below an artefact."""
    return ARTEFACTS[wildcards.name].caption


wildcard_constraints:
    dataset="[^/]+",
    run=ANY_RUN,
    name="[^/]+",
    progress=pattern(map(str, SUITE.progress)),
    sampler="[^/]+",
    protocol="[^/]+",
    split="train|test",
