# Edits of held-out images: what their rules read, and how they are made.
@one_line_errors
def edited_model(wildcards):
    """The model that edits, once its edit is known to be one."""
    settings.parse_edit(wildcards.edit)
    return model_of(run_of(wildcards), wildcards.progress)


def first_protocol(wildcards):
    """The protocol by which the edits of a run are scored: the first of the run."""
    return EXPERIMENTS.protocol(run_of(wildcards).evaluation.protocol[0])


def first_protocol_path(wildcards):
    """The file of the protocol by which the edits of a run are scored."""
    return first_protocol(wildcards).file


def first_protocol_settings(wildcards):
    """What the protocol says by which the edits of a run are scored, so that another one scores anew."""
    return first_protocol(wildcards).settings()


@one_line_errors
def edit_inputs(wildcards):
    """The model, the data set of the held-out images, a mask, and what the scores need."""
    run, edit = run_of(wildcards), settings.parse_edit(wildcards.edit)
    dataset, _ = EXPERIMENTS.held_out(run)
    files = {"model": edited_model(wildcards), "manifest": LAYOUT.manifest(dataset)}
    mask = EXPERIMENTS.mask_file(edit.mask) if edit.needs_mask else None
    if mask:
        files["mask"] = mask
    files["perceptual"] = model_of(EXPERIMENTS.perceptual_of_edits(run))
    return files | scoring_inputs(run.dataset, first_protocol(wildcards))


@one_line_errors
def edit_options(wildcards, input):
    """Which held-out images of a run are edited, and how. A test split is no output of `prepare`, but its manifest is."""
    run = run_of(wildcards)
    held_out, evaluation = EXPERIMENTS.held_out(run), run.evaluation
    labels = LAYOUT.labels(*held_out) if run.classes else None
    files = {"images": LAYOUT.images(*held_out), "labels": labels, "mask": input.get("mask")}
    how = {"count": evaluation.edited_images, "precision": evaluation.precision, "batch": evaluation.batch}
    return write_options(files | how)


@one_line_errors
def interpolation_options(wildcards):
    """How samples of a run are interpolated; of a class-conditional one, those of its first class."""
    run = run_of(wildcards)
    labels = 0 if run.classes else None
    return write_options({"labels": labels, "precision": run.evaluation.precision, "batch": run.evaluation.batch})
