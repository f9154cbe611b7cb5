rule prepare:
    output:
        multiext("results/data/{dataset}/train/", "images.npy", "labels.npy"),
        manifest="results/data/{dataset}/manifest.json",
    log:
        "results/logs/prepare/{dataset}.log",
    conda:
        "../../environment.yml"
    threads: 16
    params:
        data=data_options,
        out=subpath(output.manifest, parent=True),
    shell:
        "python -m cm prepare {params.data} --out {params.out} --workers {threads} > {log} 2>&1"


rule weights:
    input:
        weights_at_hand,
    output:
        "results/weights/{name}.safetensors",
    log:
        "results/logs/weights/{name}.log",
    localrule: True
    conda:
        "../../environment.yml"
    shell:
        "python -m cm weights --name {wildcards.name} --out {output} > {log} 2>&1"


rule release:
    output:
        "results/models/{run}/100.safetensors",
    log:
        "results/logs/release/{run}.log",
    wildcard_constraints:
        run=RELEASED,
    localrule: True
    conda:
        "../../environment.yml"
    threads: 4
    params:
        settings=run_settings,
        experiments=SUITE.experiments,
    shell:
        "python -m cm convert --run {wildcards.run} --experiments {params.experiments} --out {output} > {log} 2>&1"


rule train:
    input:
        unpack(train_inputs),
    output:
        "results/models/{run}/100.safetensors",
    log:
        "results/logs/train/{run}.log",
    benchmark:
        "results/benchmarks/train/{run}.tsv"
    conda:
        "../../environment.yml"
    threads: SUITE.threads
    resources:
        gpu=SUITE.gpus,
    params:
        settings=run_settings,
        experiments=SUITE.experiments,
        data=subpath(input.images, ancestor=2),
        models=train_options,
    shell:
        "python -m cm train --run {wildcards.run} --experiments {params.experiments} --data {params.data}"
        " {params.models} --out {output} --threads {threads} > {log} 2>&1"


use rule train as train_curve with:
    output:
        expand("results/models/{{run}}/{progress}.safetensors", progress=SUITE.progress),
    wildcard_constraints:
        run=pattern(CURVED),


ruleorder: release > train_curve > train
