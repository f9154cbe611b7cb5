rule prepare:
    output:
        LAYOUT.images(split="train"),
        LAYOUT.labels(split="train"),
        manifest=LAYOUT.manifest(),
    log:
        LAYOUT.log("prepare", "{dataset}"),
    conda:
        "../../environment.yml"
    threads: 16
    resources:
        cpus_per_task=16,
        mem_mb=16_000,
        runtime=1440,
    params:
        data=data_options,
        out=subpath(output.manifest, parent=True),
    shell:
        "cm prepare {params.data:u} --out {params.out:q} --workers {threads:q} > {log:q} 2>&1"


rule weights:
    input:
        available_weights,
    output:
        LAYOUT.weights(),
    log:
        LAYOUT.log("weights", "{name}"),
    localrule: True
    conda:
        "../../environment.yml"
    shell:
        "cm weights --name {wildcards.name:q} --out {output:q} > {log:q} 2>&1"


rule release:
    output:
        LAYOUT.model(progress=100),
    log:
        LAYOUT.log("release", "{run}"),
    wildcard_constraints:
        run=RELEASED,
    localrule: True
    conda:
        "../../environment.yml"
    threads: 4
    params:
        settings=run_settings,
        experiments=EXPERIMENTS.folder,
    shell:
        "cm convert --run {wildcards.run:q} --experiments {params.experiments:q} --out {output:q} > {log:q} 2>&1"


# Under the profile for Slurm a training is not a job of Snakemake's but one that outlives Snakemake: rules/launch.smk.
rule train:
    input:
        unpack(train_inputs),
    output:
        models=LAYOUT.model(progress=100),
        seconds=LAYOUT.seconds(),
    log:
        LAYOUT.log("train", "{run}"),
    localrule: True
    conda:
        "../../environment.yml"
    threads: train_threads
    resources:
        gpu=SUITE.gpus,
        cpus_per_task=SUITE.threads,
        mem_mb=32_000,
        runtime=1440,
        nodes=1,
        tasks=1,
        requeues=20,
        grace_seconds=120,
    params:
        settings=run_settings,
        experiments=EXPERIMENTS.folder,
        data=subpath(input.images, ancestor=2),
        models=train_options,
        launch=launch_options,
        threads=torch_threads,
    shell:
        "{params.launch:u} cm train --run {wildcards.run:q} --experiments {params.experiments:q} --data {params.data:q}"
        " {params.models:u} --out {output.models:q} --threads {params.threads:q} --gpus {resources.gpu:q} > {log:q} 2>&1"


use rule train as train_curve with:
    output:
        models=[LAYOUT.model(progress=progress) for progress in SUITE.progress],
        seconds=LAYOUT.seconds(),
    wildcard_constraints:
        run=pattern(WITH_CURVES),
    localrule: True


ruleorder: release > train_curve > train
