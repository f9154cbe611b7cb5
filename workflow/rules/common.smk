import functools
import os
import re
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from cm import config as settings
from cm import registry
from cm.config.layout import Layout, check_layout, parse_model_name
from cm.errors import UserError
from cm.report import caption as caption_of
from cm.report.page_artefacts import find_section
from cm.report.restructured_text import escape
from cm.training.trackers import TRACKERS, select_trackers

# Rules state `cpus_per_task` besides `threads`: Snakemake never gives a job more threads than the machine it is started on
# has cores, though Slurm runs the job elsewhere; there, `threads` are those that Slurm granted.
#
# Every value in a shell line is quoted there (`:q`), or is the text of several options that `write_options` has quoted (`:u`).
LAYOUT = Layout()


def find_configuration():
    """The folder of suites, experiments and protocols: `config` in the working folder, or that beside the workflow."""
    copied = Path("config")
    return copied if (copied / "suites").is_dir() else Path(str(workflow.current_basedir)).parents[1] / "config"


CONFIGURATION = find_configuration()


configfile: CONFIGURATION / "config.yaml"


def read_suite(name):
    """The suite of that name in config/suites, or of that path."""
    path = Path(os.path.relpath(settings.find_suite(name, CONFIGURATION / "suites")))
    return path, settings.load_suite(path)


def check_targets(arguments):
    """Refuse a misspelt run, sampler or protocol in a file that is asked for by name, before any job starts.

    Also the target `claims` of a suite that judges none.
    """
    if "claims" in arguments and not CLAIMS:
        raise UserError(f"suite {SUITE.name} has no artefact of the kind 'claims'")
    for target in filter(None, map(LAYOUT.parse, arguments)):
        EXPERIMENTS.run(target["run"])
        if "sampler" in target:
            settings.parse_sampler(target["sampler"])
        if "edit" in target:
            settings.parse_edit(target["edit"])
        if "protocol" in target:
            EXPERIMENTS.protocol(target["protocol"])


try:
    check_layout(LAYOUT)
    CONFIG = settings.check(settings.WorkflowFile, config, "--config")
    SUITE_PATH, SUITE = read_suite(CONFIG.suite)
    EXPERIMENTS, ARTEFACTS = SUITE.experiments, SUITE.all_artefacts
    CLAIMS = [name for name, artefact in ARTEFACTS.items() if artefact.kind == "claims"]
    check_targets(sys.argv)
    select_trackers(os.environ.get(TRACKERS, "").split())
except UserError as error:
    raise WorkflowError(str(error)) from None

PAPER_ARTEFACTS = [name for name, artefact in ARTEFACTS.items() if artefact.paper]
MODEL_NAMES = sorted({*map(str, SUITE.progress), *(cell.samples[1] for cell in SUITE.all_cells())})
TRAININGS = [LAYOUT.seconds(run.name) for run in SUITE.all_runs() if not run.released]
WITH_CURVES = sorted({cell.run.name for cell in SUITE.all_cells() if cell.progress != 100})
ANY_RUN = r"[^/]+/[^/]+/[^/]+/seed\d+"
RELEASED = r"[^/]+/[^/]+/[^/]*released~[^/]+/seed\d+"


def artefacts_of(form):
    """Artefacts of exactly the forms in `form`: ("table",), ("figure",) or ("table", "figure")."""
    return [name for name, artefact in ARTEFACTS.items() if forms(artefact) == form]


def forms(artefact):
    """The forms an artefact is drawn in, table before figure."""
    form = registry.get("artefact", artefact.kind).form
    return ("table", "figure") if form == "both" else (form,)


def targets(artefacts, form="both"):
    """The tables and figures of artefacts, and the files they are drawn from: a score that is missing is made again."""
    paths = {"table": LAYOUT.table, "figure": LAYOUT.figure}
    files, sources = [], []
    for name in artefacts:
        drawn = [one for one in forms(ARTEFACTS[name]) if form in (one, "both")]
        files += [paths[one](name) for one in drawn]
        sources += drawn_from(name) if drawn else []
    return files + list(dict.fromkeys(sources))


def runs_by_protocol():
    """The runs of the suite that have one protocol, as a wildcard constraint for each protocol."""
    methods = {}
    for run in dict.fromkeys(cell.run for cell in SUITE.all_cells()):
        if len(run.evaluation.protocol) == 1:
            methods.setdefault(run.evaluation.protocol[0], {})[f"{run.dataset}/{run.method}"] = None
    return {protocol: rf"(?:{pattern(names)})/[^/]+/seed\d+" for protocol, names in methods.items()}


def pattern(names):
    """A wildcard constraint that admits these names and nothing else."""
    return "|".join(map(re.escape, names)) or "(?!)"


def one_line_errors(function):
    """The function, with a user's mistake as the workflow's one-line error."""

    @functools.wraps(function)
    def wrapper(*arguments, **named):
        try:
            return function(*arguments, **named)
        except UserError as error:
            raise WorkflowError(str(error)) from None

    return wrapper


def claim_targets(wildcards):
    """The verdicts of the suite on the paper's claims."""
    return targets(CLAIMS)


@one_line_errors
def run_of(wildcards):
    """The run a job is about."""
    return EXPERIMENTS.run(wildcards.run)


def model_of(run, progress=100):
    """The model file of a run, or the file of pretrained weights."""
    if isinstance(run, settings.Weights):
        return LAYOUT.weights(run.name)
    return LAYOUT.model(run.name, progress)


def write_options(options):
    """`--key value` for each option whose value is not None, quoted for the shell."""
    return " ".join(f"--{key} {shlex.quote(str(value))}" for key, value in options.items() if value is not None)


@one_line_errors
def data_options(wildcards):
    """`--dataset NAME --source PATH --resolution 64`, as the `data:` of base.yaml says."""
    data = EXPERIMENTS.data(wildcards.dataset)
    return write_options({"dataset": data.name, "source": data.source, **data.settings})


@one_line_errors
def train_inputs(wildcards):
    """The data and the models that a training reads."""
    run = run_of(wildcards)
    models = {role: model_of(other) for role, other in EXPERIMENTS.inputs(run).items()}
    return {"images": LAYOUT.images(run.dataset, "train"), **models}


def train_options(wildcards, input):
    """`--teacher FILE --perceptual FILE`, those that the run has."""
    return write_options({role: path for role, path in input.items() if role != "images"})


def run_settings(wildcards):
    """What a run is made of, so that an experiment file that means another run trains anew."""
    return run_of(wildcards).recipe()


@one_line_errors
def sampled_model(wildcards):
    """The model to sample, once its sampler is known to be one; those of other EMA decays lie beside it."""
    settings.parse_sampler(wildcards.sampler)
    return model_of(run_of(wildcards), parse_model_name(wildcards.progress)[0])


@one_line_errors
def sampled_from(wildcards):
    """The model to sample, and the search that found the time points of the sampler, if they are searched."""
    files = {"model": sampled_model(wildcards)}
    if settings.is_searched(settings.parse_sampler(wildcards.sampler)):
        files["search"] = LAYOUT.search(wildcards.run, wildcards.progress, wildcards.sampler)
    return files


def search_option(wildcards, input):
    """`--search FILE`, where the time points of the sampler are searched."""
    return write_options({"search": input.get("search")})


@one_line_errors
def search_inputs(wildcards):
    """The model whose time points are searched, the search that is continued, and what samples are compared with."""
    files = {"model": sampled_model(wildcards)}
    previous = settings.previous_search(wildcards.sampler)
    if previous:
        files["previous"] = LAYOUT.search(wildcards.run, wildcards.progress, previous)
    return files | scoring_inputs(run_of(wildcards).dataset, first_protocol(wildcards))


def previous_option(wildcards, input):
    """`--previous FILE`, where a search continues another one."""
    return write_options({"previous": input.get("previous")})


def first_protocol(wildcards):
    """The first protocol of a run, by which time points are searched."""
    return EXPERIMENTS.protocol(run_of(wildcards).evaluation.protocol[0])


def first_protocol_path(wildcards):
    """The file of the first protocol of a run."""
    return first_protocol(wildcards).file


def first_protocol_settings(wildcards):
    """What the first protocol of a run says, so that another one searches anew."""
    return first_protocol(wildcards).settings()


@one_line_errors
def sample_options(wildcards):
    """How the samples of a run are made for its scores."""
    run = run_of(wildcards)
    evaluation = run.evaluation
    options = {
        "count": EXPERIMENTS.sample_count(run),
        "quantization": EXPERIMENTS.quantization(run),
        "precision": evaluation.precision,
        "batch": evaluation.batch,
        "ema-decay": parse_model_name(wildcards.progress)[1],
    }
    return write_options(options) + (" --clamp" if evaluation.clamp else "")


def only_protocol(wildcards):
    """The protocol of a run that has one."""
    (protocol,) = run_of(wildcards).evaluation.protocol
    return EXPERIMENTS.protocol(protocol)


def only_protocol_path(wildcards):
    """The file of the protocol of a run that has one."""
    return only_protocol(wildcards).file


def only_protocol_settings(wildcards):
    """What the protocol of a run that has one says, so that another one scores anew."""
    return only_protocol(wildcards).settings()


def evaluate_inputs(wildcards):
    """The model, what its samples are compared with, and the search for its time points, for a run with one protocol."""
    return sampled_from(wildcards) | scoring_inputs(run_of(wildcards).dataset, only_protocol(wildcards))


@one_line_errors
def protocol_of(wildcards):
    """The protocol a job is about."""
    return EXPERIMENTS.protocol(wildcards.protocol)


def protocol_path(wildcards):
    """The file of a protocol."""
    return protocol_of(wildcards).file


def protocol_settings(wildcards):
    """What a protocol says, so that another one scores anew."""
    return protocol_of(wildcards).settings()


def reference_images(wildcards):
    """The real images that a protocol compares with."""
    return LAYOUT.images(wildcards.dataset, protocol_of(wildcards).reference)


@one_line_errors
def extractor_of(protocol):
    """The model file, or the pretrained weights, whose features a protocol compares."""
    return model_of(EXPERIMENTS.run_or_weights(protocol.extractor))


def score_inputs(wildcards):
    """The features of the reference images, and the extractor."""
    dataset = run_of(wildcards).dataset if hasattr(wildcards, "run") else wildcards.dataset
    return scoring_inputs(dataset, protocol_of(wildcards))


def scoring_inputs(dataset, protocol):
    """The features of the reference images of a data set, and the extractor, by a protocol."""
    return {"reference": LAYOUT.features(dataset, protocol.name), "extractor": extractor_of(protocol)}


@one_line_errors
def featurize_inputs(wildcards):
    """The data set, the extractor, and the statistics that are given instead of computed."""
    protocol = protocol_of(wildcards)
    statistics = EXPERIMENTS.statistics_file(wildcards.dataset, protocol)
    files = {"manifest": LAYOUT.manifest(wildcards.dataset), "extractor": extractor_of(protocol)}
    return files | ({"statistics": statistics} if statistics else {})


def statistics_option(wildcards, input):
    """`--statistics FILE`, where statistics are given."""
    return write_options({"statistics": input.get("statistics")})


@one_line_errors
def available_weights(wildcards):
    """Nothing; a user's mistake, before anything starts, if weights are where no job could fetch them."""
    missing = registry.get("weights", wildcards.name).missing()
    if missing:
        raise UserError(missing)
    return []


SINGLE_PROTOCOL_RUNS = runs_by_protocol()


def artefact_inputs(wildcards):
    """The files that a table or figure is drawn from."""
    return drawn_from(wildcards.name)


def drawn_from(name):
    """The files that the artefact of that name is drawn from."""
    artefact = ARTEFACTS[name]
    kind, cells = registry.get("artefact", artefact.kind), SUITE.cells(artefact)
    edited, sampled = [cell for cell in cells if cell.edit], [cell for cell in cells if not cell.edit]
    scores = [LAYOUT.score(*cell.samples, cell.protocol.name) for cell in sampled]
    previews = [LAYOUT.preview(*cell.samples) for cell in sampled]
    references = [LAYOUT.images(cell.run.dataset, cell.protocol.reference) for cell in sampled]
    files = {
        "nothing": [],
        "edit previews": [LAYOUT.edit_preview(*cell.edited) for cell in edited],
        "edit scores": [LAYOUT.edit_score(*cell.edited) for cell in edited],
        "scores": scores,
        "claims": scores,
        "previews": previews,
        "nearest": scores + previews + references,
        "models": [LAYOUT.model(cell.run.name, 100) for cell in cells],
        "searches": [LAYOUT.search(*cell.samples) for cell in sampled],
        "trainings": TRAININGS,
        "seconds": scores + [LAYOUT.seconds(cell.run.name) for cell in cells],
    }
    pairs = dict.fromkeys((cell.run.dataset, cell.protocol.name) for cell in cells if kind.baseline)
    tested = [pair for pair in pairs if "test" in EXPERIMENTS.splits(pair[0])]
    baseline = [LAYOUT.baseline(dataset, "test", protocol) for dataset, protocol in tested]
    return list(dict.fromkeys(files[kind.needs])) + baseline + list(artefact.options.get("others", ()))


def artefact_settings(wildcards):
    """What an artefact is made of, so that a changed suite file draws anew; no `<`, since the report has it in a script."""
    return repr(ARTEFACTS[wildcards.name]).replace("<", r"\x3c")


def caption(wildcards):
    """The sentence below an artefact, as reStructuredText, in which the report takes it."""
    return escape(caption_of(ARTEFACTS[wildcards.name]))


def section(wildcards):
    """The section of the workflow report in which an artefact stands, the same as on the page."""
    return find_section(ARTEFACTS[wildcards.name].kind)


wildcard_constraints:
    dataset="[^/]+",
    run=ANY_RUN,
    name="[^/]+",
    progress=pattern(MODEL_NAMES),
    sampler="[^/]+",
    edit="[^/]+",
    protocol="[^/]+",
    split="train|test",
