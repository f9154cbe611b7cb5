rule sample:
    input:
        unpack(sampled_from),
    output:
        images=temp(LAYOUT.samples()),
        about=temp(LAYOUT.samples(suffix=".json")),
        preview=LAYOUT.preview(),
        grid=LAYOUT.preview(suffix=".png"),
    log:
        LAYOUT.log("sample", "{run}", "{progress}", "{sampler}"),
    conda:
        "../../environment.yml"
    threads: SUITE.threads
    resources:
        gpu=SUITE.gpus,
        cpus_per_task=SUITE.threads,
        mem_mb=32_000,
        runtime=720,
    params:
        evaluation=sample_options,
        search=search_option,
    shell:
        "cm sample --model {input.model:q} --sampler {wildcards.sampler:q} {params.search:u} {params.evaluation:u}"
        " --out {output.images:q} --preview {output.preview:q}"
        " --threads {threads:q} --gpus {resources.gpu:q} > {log:q} 2>&1"


rule score:
    input:
        unpack(score_inputs),
        images=LAYOUT.samples(),
        about=LAYOUT.samples(suffix=".json"),
    output:
        LAYOUT.score(),
    log:
        LAYOUT.log("score", "{run}", "{progress}", "{sampler}", "{protocol}"),
    conda:
        "../../environment.yml"
    threads: SUITE.threads
    resources:
        gpu=SUITE.gpus,
        cpus_per_task=SUITE.threads,
        mem_mb=32_000,
        runtime=240,
    params:
        protocol=protocol_path,
        settings=protocol_settings,
    shell:
        "cm score {input.images:q} --reference {input.reference:q} --protocol {params.protocol:q}"
        " --extractor {input.extractor:q} --out {output:q} --threads {threads:q} --gpus {resources.gpu:q} > {log:q} 2>&1"


# Runs with one protocol are sampled and scored in one job, so that Python and torch start once for each score. The job
# leaves a preview too, but it is `preview` that the workflow asks for one: that needs no data set and no extractor.
for protocol, runs in SINGLE_PROTOCOL_RUNS.items():

    rule:
        name:
            f"evaluate_{protocol}"
        input:
            unpack(evaluate_inputs),
        output:
            LAYOUT.score(protocol=protocol),
        log:
            LAYOUT.log("evaluate", "{run}", "{progress}", "{sampler}"),
        wildcard_constraints:
            run=runs,
        conda:
            "../../environment.yml"
        threads: SUITE.threads
        resources:
            gpu=SUITE.gpus,
            cpus_per_task=SUITE.threads,
            mem_mb=32_000,
            runtime=720,
        params:
            evaluation=sample_options,
            search=search_option,
            preview=LAYOUT.preview(),
            protocol=only_protocol_path,
            settings=only_protocol_settings,
        shell:
            "cm evaluate --model {input.model:q} --sampler {wildcards.sampler:q} {params.search:u} {params.evaluation:u}"
            " --preview {params.preview:q} --reference {input.reference:q} --protocol {params.protocol:q}"
            " --extractor {input.extractor:q} --score {output:q}"
            " --threads {threads:q} --gpus {resources.gpu:q} > {log:q} 2>&1"

    workflow.ruleorder(f"evaluate_{protocol}", "score")


# The preview of a run with one protocol, whose samples are made, scored and deleted elsewhere; no others are made here.
rule preview:
    input:
        unpack(sampled_from),
    output:
        preview=LAYOUT.preview(),
        grid=LAYOUT.preview(suffix=".png"),
    log:
        LAYOUT.log("preview", "{run}", "{progress}", "{sampler}"),
    wildcard_constraints:
        run="|".join(SINGLE_PROTOCOL_RUNS.values()) or "(?!)",
    conda:
        "../../environment.yml"
    threads: SUITE.threads
    resources:
        gpu=SUITE.gpus,
        cpus_per_task=SUITE.threads,
        mem_mb=32_000,
        runtime=240,
    params:
        evaluation=sample_options,
        search=search_option,
    shell:
        "cm sample --model {input.model:q} --sampler {wildcards.sampler:q} {params.search:u} {params.evaluation:u}"
        " --preview {output.preview:q} --threads {threads:q} --gpus {resources.gpu:q} > {log:q} 2>&1"


ruleorder: preview > sample


# The result of a search for n time points continues that for n - 1, so that no point is searched twice.
rule search:
    input:
        unpack(search_inputs),
    output:
        LAYOUT.search(),
    log:
        LAYOUT.log("search", "{run}", "{progress}", "{sampler}"),
    conda:
        "../../environment.yml"
    threads: SUITE.threads
    resources:
        gpu=SUITE.gpus,
        cpus_per_task=SUITE.threads,
        mem_mb=32_000,
        runtime=1440,
    params:
        evaluation=sample_options,
        previous=previous_option,
        protocol=first_protocol_path,
        settings=first_protocol_settings,
    shell:
        "cm search --model {input.model:q} --sampler {wildcards.sampler:q} {params.previous:u} {params.evaluation:u}"
        " --reference {input.reference:q} --protocol {params.protocol:q} --extractor {input.extractor:q}"
        " --out {output:q} --threads {threads:q} --gpus {resources.gpu:q} > {log:q} 2>&1"


rule featurize:
    input:
        unpack(featurize_inputs),
    output:
        LAYOUT.features(),
    log:
        LAYOUT.log("featurize", "{dataset}", "{protocol}"),
    conda:
        "../../environment.yml"
    threads: SUITE.threads
    resources:
        gpu=SUITE.gpus,
        cpus_per_task=SUITE.threads,
        mem_mb=32_000,
        runtime=720,
    params:
        images=reference_images,
        statistics=statistics_option,
        protocol=protocol_path,
        settings=protocol_settings,
    shell:
        "cm featurize {params.images:q} --protocol {params.protocol:q} --extractor {input.extractor:q}"
        " {params.statistics:u} --out {output:q} --threads {threads:q} --gpus {resources.gpu:q} > {log:q} 2>&1"


rule baseline:
    input:
        unpack(score_inputs),
        manifest=LAYOUT.manifest(),
    output:
        LAYOUT.baseline(),
    log:
        LAYOUT.log("score", "{dataset}", "real", "{split}", "{protocol}"),
    conda:
        "../../environment.yml"
    threads: SUITE.threads
    resources:
        gpu=SUITE.gpus,
        cpus_per_task=SUITE.threads,
        mem_mb=32_000,
        runtime=240,
    params:
        data=subpath(input.manifest, parent=True),
        protocol=protocol_path,
        settings=protocol_settings,
    shell:
        "cm score {params.data:q}/{wildcards.split:q}/images.npy --reference {input.reference:q}"
        " --protocol {params.protocol:q} --extractor {input.extractor:q} --out {output:q}"
        " --threads {threads:q} --gpus {resources.gpu:q} > {log:q} 2>&1"


rule edit:
    input:
        unpack(edit_inputs),
    output:
        preview=LAYOUT.edit_preview(),
        grid=LAYOUT.edit_preview(suffix=".png"),
        score=LAYOUT.edit_score(),
    log:
        LAYOUT.log("edit", "{run}", "{progress}", "{edit}"),
    wildcard_constraints:
        edit="(?!interpolation)[^/]+",
    conda:
        "../../environment.yml"
    threads: SUITE.threads
    resources:
        gpu=SUITE.gpus,
        cpus_per_task=SUITE.threads,
        mem_mb=32_000,
        runtime=720,
    params:
        options=edit_options,
        protocol=first_protocol_path,
        settings=first_protocol_settings,
    shell:
        "cm edit --model {input.model:q} --edit {wildcards.edit:q} {params.options:u}"
        " --preview {output.preview:q} --score {output.score:q} --reference {input.reference:q}"
        " --protocol {params.protocol:q} --extractor {input.extractor:q} --perceptual {input.perceptual:q}"
        " --threads {threads:q} --gpus {resources.gpu:q} > {log:q} 2>&1"


rule interpolate:
    input:
        model=edited_model,
    output:
        preview=LAYOUT.edit_preview(),
        grid=LAYOUT.edit_preview(suffix=".png"),
    log:
        LAYOUT.log("edit", "{run}", "{progress}", "{edit}"),
    wildcard_constraints:
        edit="interpolation[^/]*",
    conda:
        "../../environment.yml"
    threads: SUITE.threads
    resources:
        gpu=SUITE.gpus,
        cpus_per_task=SUITE.threads,
        mem_mb=32_000,
        runtime=240,
    params:
        options=interpolation_options,
    shell:
        "cm edit --model {input.model:q} --edit {wildcards.edit:q} {params.options:u} --preview {output.preview:q}"
        " --threads {threads:q} --gpus {resources.gpu:q} > {log:q} 2>&1"
