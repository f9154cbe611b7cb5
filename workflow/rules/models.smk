rule prepare:
    output:
        expand(
            "results/data/{{dataset}}/{split}/{part}.npy",
            split=["train", "test"],
            part=["images", "labels"],
        ),
        manifest="results/data/{dataset}/manifest.json",
    log:
        "results/logs/prepare/{dataset}.log",
    conda:
        "../../environment.yml"
    params:
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m cm prepare --dataset {wildcards.dataset} --out {params.out} > {log} 2>&1"


rule train:
    input:
        unpack(train_inputs),
    output:
        expand("results/models/{{run}}/{progress}.safetensors", progress=SUITE.progress),
    log:
        "results/logs/train/{run}.log",
    benchmark:
        "results/benchmarks/train/{run}.tsv"
    conda:
        "../../environment.yml"
    threads: SUITE.threads
    params:
        settings=run_settings,
        experiments=SUITE.experiments,
        data=subpath(input.images, ancestor=2),
        out=subpath(output[0], parent=True),
        models=train_options,
    shell:
        "python -m cm train --run {wildcards.run} --experiments {params.experiments} --data {params.data}"
        f" {{params.models}} --keep {KEEP} --out {{params.out}} --threads {{threads}} > {{log}} 2>&1"
