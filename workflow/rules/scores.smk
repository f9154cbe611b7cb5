rule sample:
    input:
        model=sampled_model,
    output:
        images=temp("results/images/{run}/{progress}/{sampler}.npy"),
        about=temp("results/images/{run}/{progress}/{sampler}.json"),
        preview="results/samples/{run}/{progress}/{sampler}.npy",
        grid="results/samples/{run}/{progress}/{sampler}.png",
    log:
        "results/logs/sample/{run}/{progress}/{sampler}.log",
    benchmark:
        "results/benchmarks/sample/{run}/{progress}/{sampler}.tsv"
    conda:
        "../../environment.yml"
    threads: SUITE.threads
    resources:
        gpu=SUITE.gpus,
    params:
        evaluation=sample_options,
    shell:
        "python -m cm sample --model {input.model} --sampler {wildcards.sampler:q} {params.evaluation}"
        " --out {output.images:q} --preview {output.preview:q} --threads {threads} > {log:q} 2>&1"


rule score:
    input:
        unpack(score_inputs),
        images="results/images/{run}/{progress}/{sampler}.npy",
        about="results/images/{run}/{progress}/{sampler}.json",
    output:
        "results/scores/{run}/{progress}/{sampler}.json",
    log:
        "results/logs/score/{run}/{progress}/{sampler}.log",
    conda:
        "../../environment.yml"
    threads: SUITE.threads
    resources:
        gpu=SUITE.gpus,
    params:
        protocol=protocol_path,
        settings=protocol_settings,
    shell:
        "python -m cm score {input.images:q} --reference {input.reference} --protocol {params.protocol}"
        " --extractor {input.extractor} --out {output:q} --threads {threads} > {log:q} 2>&1"


rule featurise:
    input:
        unpack(featurise_inputs),
    output:
        "results/features/{dataset}/{protocol}.npz",
    log:
        "results/logs/featurise/{dataset}/{protocol}.log",
    conda:
        "../../environment.yml"
    threads: SUITE.threads
    resources:
        gpu=SUITE.gpus,
    params:
        images=reference_images,
        protocol=protocol_path,
        settings=protocol_settings,
    shell:
        "python -m cm featurise {params.images} --protocol {params.protocol} --extractor {input.extractor}"
        " --out {output} --threads {threads} > {log} 2>&1"


rule floor:
    input:
        unpack(score_inputs),
        manifest="results/data/{dataset}/manifest.json",
    output:
        "results/scores/{dataset}/real/{split}.json",
    log:
        "results/logs/score/{dataset}/real/{split}.log",
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
        "python -m cm score {params.data}/{wildcards.split}/images.npy --reference {input.reference}"
        " --protocol {params.protocol} --extractor {input.extractor} --out {output} --threads {threads} > {log} 2>&1"
