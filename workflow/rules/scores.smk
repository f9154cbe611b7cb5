rule sample:
    input:
        model=sampled_model,
    output:
        images=temp(LAYOUT.samples()),
        about=temp(LAYOUT.samples(suffix=".json")),
        preview=LAYOUT.preview(),
        grid=LAYOUT.preview(suffix=".png"),
    log:
        LAYOUT.log("sample", "{run}", "{progress}", "{sampler}"),
    benchmark:
        LAYOUT.benchmark("sample", "{run}/{progress}/{sampler}")
    conda:
        "../../environment.yml"
    threads: SUITE.threads
    resources:
        gpu=SUITE.gpus,
    params:
        evaluation=sample_options,
    shell:
        "cm sample --model {input.model} --sampler {wildcards.sampler:q} {params.evaluation}"
        " --out {output.images:q} --preview {output.preview:q} --threads {threads} > {log:q} 2>&1"


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
    params:
        protocol=protocol_path,
        settings=protocol_settings,
    shell:
        "cm score {input.images:q} --reference {input.reference} --protocol {params.protocol}"
        " --extractor {input.extractor} --out {output:q} --threads {threads} > {log:q} 2>&1"


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
    params:
        images=reference_images,
        statistics=statistics_option,
        protocol=protocol_path,
        settings=protocol_settings,
    shell:
        "cm featurize {params.images} --protocol {params.protocol} --extractor {input.extractor}"
        " {params.statistics} --out {output} --threads {threads} > {log} 2>&1"


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
    params:
        data=subpath(input.manifest, parent=True),
        protocol=protocol_path,
        settings=protocol_settings,
    shell:
        "cm score {params.data}/{wildcards.split}/images.npy --reference {input.reference}"
        " --protocol {params.protocol} --extractor {input.extractor} --out {output} --threads {threads} > {log} 2>&1"
