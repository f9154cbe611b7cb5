rule table:
    input:
        artefact_inputs,
    output:
        report(
            "reports/tables/{name}.csv",
            caption="../report/artefact.rst",
            category="Tables",
            labels={"table": "{name}"},
        ),
        multiext("reports/tables/{name}", ".md", ".tex"),
    log:
        "results/logs/draw/{name}.log",
    wildcard_constraints:
        name=pattern(named(("table",))),
    conda:
        "../../environment.yml"
    params:
        settings=artefact_settings,
        caption=caption,
        suite=SUITE_PATH,
    shell:
        "python -m cm draw --suite {params.suite} --artefact {wildcards.name} > {log} 2>&1"


use rule table as figure with:
    output:
        report(
            "reports/figures/{name}.svg",
            caption="../report/artefact.rst",
            category="Figures",
            labels={"figure": "{name}"},
        ),
        "reports/figures/{name}.png",
    wildcard_constraints:
        name=pattern(named(("figure",))),


use rule table as ablation with:
    output:
        report(
            "reports/tables/{name}.csv",
            caption="../report/artefact.rst",
            category="Ablations",
            labels={"table": "{name}"},
        ),
        report(
            "reports/figures/{name}.svg",
            caption="../report/artefact.rst",
            category="Ablations",
            labels={"figure": "{name}"},
        ),
        multiext("reports/tables/{name}", ".md", ".tex"),
        "reports/figures/{name}.png",
    wildcard_constraints:
        name=pattern(named(("table", "figure"))),


for ablation in SUITE.ablations:

    rule:
        name:
            ablation
        input:
            wanted([ablation]),
        localrule: True
