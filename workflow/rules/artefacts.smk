rule table:
    input:
        artefact_inputs,
    output:
        report(
            LAYOUT.table(),
            caption="../report/artefact.rst",
            category=section,
            labels={"table": "{name}"},
        ),
        LAYOUT.table(suffix=".md"),
        LAYOUT.table(suffix=".tex"),
    log:
        LAYOUT.log("draw", "{name}"),
    wildcard_constraints:
        name=pattern(artefacts_of(("table",))),
    localrule: True
    conda:
        "../../environment.yml"
    params:
        settings=artefact_settings,
        caption=caption,
        suite=SUITE_PATH,
    shell:
        "cm draw --suite {params.suite:q} --artefact {wildcards.name:q} > {log:q} 2>&1"


# `use rule` does not hand `localrule` on.
use rule table as figure with:
    output:
        report(
            LAYOUT.figure(),
            caption="../report/artefact.rst",
            category=section,
            labels={"figure": "{name}"},
        ),
        LAYOUT.figure(suffix=".png"),
    wildcard_constraints:
        name=pattern(artefacts_of(("figure",))),
    localrule: True


use rule table as ablation with:
    output:
        report(
            LAYOUT.table(),
            caption="../report/artefact.rst",
            category=section,
            labels={"table": "{name}"},
        ),
        report(
            LAYOUT.figure(),
            caption="../report/artefact.rst",
            category=section,
            labels={"figure": "{name}"},
        ),
        LAYOUT.table(suffix=".md"),
        LAYOUT.table(suffix=".tex"),
        LAYOUT.figure(suffix=".png"),
    wildcard_constraints:
        name=pattern(artefacts_of(("table", "figure"))),
    localrule: True


for ablation in SUITE.ablations:

    rule:
        name:
            ablation
        input:
            targets([ablation]),
        localrule: True
