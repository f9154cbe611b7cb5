"""The file of claims: what the shipped one is about, and how mistakes in any are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cm.config import load_suite
from cm.config.claims import FILE, compare, read_claims
from cm.errors import UserError

CONFIG = Path(__file__).parents[2] / "config"
CLAIMS = read_claims(CONFIG / FILE)
JUDGING = ("demo", "laptop", "paper", "reduced")
CLAIM = {
    "statement": "Two-step CD has a lower FID than one-step CD.",
    "source": "Table 1",
    "suites": ["demo"],
    "runs": {"method": "cd", "evaluations": 2},
    "relation": "better",
    "reference": {"method": "cd", "evaluations": 1},
}
PUBLISHED = {"table": "table1", "dataset": "cifar10", "method": "CD", "nfe": 1}


@pytest.fixture(scope="module")
def suites():
    return {name: load_suite(CONFIG / "suites" / f"{name}.yaml") for name in JUDGING}


def decided(suite):
    return {one.name: one for one in suite.comparisons(suite.find("claims"))}


def test_every_claim_is_about_runs_of_the_suites_that_it_names(suites):
    found = {name: decided(suite) for name, suite in suites.items()}
    for name, claim in CLAIMS.items():
        assert claim.suites and all(name in found[suite] for suite in claim.suites), name
    assert sum(claim.suites == ("paper",) for claim in CLAIMS.values()) > 150


def test_every_measured_number_of_tables_1_and_2_is_a_claim():
    numbers = {
        (row.dataset, row.method, row.nfe, metric)
        for claim in CLAIMS.values()
        if claim.relation == "equal" and (row := claim.published)
        for metric in claim.metrics
    }
    rows = 7 * 2 + 3 * 7 * 3  # EDM, and PD, CD and CT in one and two steps; FID and IS, or FID, precision and recall
    assert len(numbers) == rows


def test_values_are_judged_in_the_suite_of_the_paper_only(suites):
    for name in ("demo", "laptop", "reduced"):
        assert not [one for one in decided(suites[name]).values() if one.claim.published]


@pytest.mark.parametrize("name", JUDGING)
def test_claims_add_no_score(suites, name):
    suite = suites[name]
    wanted = {(*cell.samples, cell.protocol.name) for cell in suite.cells(suite.find("claims"))}
    others = [one for one in suite.all_artefacts.values() if one.kind != "claims"]
    asked = {(*cell.samples, cell.protocol.name) for one in others for cell in suite.cells(one)}
    assert wanted and wanted <= asked


def test_both_sides_have_the_same_seeds_and_the_same_protocol(suites):
    for suite in suites.values():
        for one in decided(suite).values():
            assert [cell.run.seed for cell in one.runs] == sorted({cell.run.seed for cell in one.runs})
            if not one.claim.published:
                assert [cell.run.seed for cell in one.runs] == [cell.run.seed for cell in one.reference]
                assert {cell.protocol.name for cell in one.runs} == {cell.protocol.name for cell in one.reference}


def test_evaluations_stand_for_the_sampler_that_the_suite_names_first(suites):
    (*_, cell) = decided(suites["demo"])["two_steps_better_cd"].runs
    assert cell.sampler == "multistep,times~0.5853"
    (*_, cell) = decided(suites["paper"])["two_steps_better_ct"].runs
    assert cell.sampler == "search,points~151,steps~2"


# ---- cases and mistakes ---------------------------------------------------------------------------------------------


@pytest.fixture
def write(tmp_path):
    """A function that writes a file of claims beside the demo suite."""
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites/demo.yaml").touch()

    def write_file(content) -> Path:
        path = tmp_path / FILE
        path.write_text(content if isinstance(content, str) else yaml.safe_dump({"claims": content}, sort_keys=False))
        return path

    return write_file


def test_a_claim_is_made_for_each_combination_of_its_cases(write):
    cases = [{"d": ["l 1", "l2"], "nfe": [2, 4]}, {"d": 1, "nfe": 8}]
    claim = {**CLAIM, "statement": "At NFE {nfe}, {d}.", "cases": cases}
    claim["runs"] = {"method": "cd", "settings": {"distance": "{d}"}, "evaluations": "{nfe}"}
    found = read_claims(write({"c": claim}))
    assert list(found) == ["c_l-1_2", "c_l-1_4", "c_l2_2", "c_l2_4", "c_1_8"]
    assert found["c_l2_4"].statement == "At NFE 4, l2."
    assert (found["c_l2_4"].runs.evaluations, found["c_1_8"].runs.settings) == (4, {"distance": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": ["fidd"]}, "claim c, metrics: unknown metric 'fidd'; known: "),
        ({"metric": "fid"}, "claim c: unknown setting 'metric'; known: "),
        ({"suites": ["dmeo"]}, "claim c: unknown suite 'dmeo'; known: demo"),
        ({"relation": "worse"}, "claim c: unknown relation 'worse'; known: better, equal, similar"),
        ({"relation": "similar"}, "claim c: 'similar' needs a 'margin'"),
        ({"margin": 0.1}, "claim c: 'similar' needs a 'margin', and no other relation has one"),
        ({"relation": "equal"}, "claim c: 'equal' compares with a 'published' number"),
        ({"published": PUBLISHED}, "needs a 'reference' or a 'published' number to compare with, and not both"),
        ({"statement": "At NFE {nfe}."}, "names 'nfe' in braces"),
        ({"runs": {"method": "cd", "sampler": "onestep", "evaluations": 1}}, "'sampler' or 'evaluations', not both"),
        ({"cases": ["x"]}, "claim c: a case must be a mapping from words to values, not 'x'"),
        ({"cases": [{"a": 1}, {"a": 1}]}, "two claims are called 'c_1'"),
    ],
)
def test_a_mistake_in_a_claim_is_refused_in_one_line(write, change, message):
    with pytest.raises(UserError) as caught:
        read_claims(write({"c": {**CLAIM, **change}}))
    assert message in str(caught.value) and "claims.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("claims:\n  a: {}\n  a: {}\n", "line 3: the key 'a' stands here for the second time"),
        ("claim: {}\n", "expected 'claims:' with a mapping"),
        ("claims: {a: 1}\n", "claim a: expected a mapping, not 1"),
        ("claims: {'a b': {}}\n", "'a b' cannot be the name of a claim"),
        ("claims: {a: {source: x}}\n", "claim a: 'statement' is missing"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(write, text, message):
    with pytest.raises(UserError) as caught:
        read_claims(write(text))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": {"method": "dc"}}, "dc"),
        ({"runs": {"method": "cd", "settings": {"stpes": 9}}}, "stpes"),
        ({"runs": {"method": "cd", "settings": {"steps": 7}}}, "suite demo has scores of digits/cd/steps~7 at 100 %"),
        (
            {"runs": {"method": "cd", "evaluations": 3000}},
            "suite demo has scores of digits/cd/default at 100 % through 3000",
        ),
        ({"runs": {"method": "cd", "sampler": "onestp"}}, "unknown sampler 'onestp'"),
        ({"protocol": "offlien"}, "unknown protocol 'offlien'; known: offline"),
        ({"metrics": ["sfid"]}, "protocol offline: unknown metric 'sfid'"),
    ],
)
def test_a_claim_about_what_its_suite_does_not_have_is_refused_in_one_line(suites, write, change, message):
    claims = read_claims(write({"c": {**CLAIM, **change}}))
    with pytest.raises(UserError) as caught:
        compare(suites["demo"], claims, suites["demo"].all_cells())
    assert message in str(caught.value)
    assert compare(suites["laptop"], claims, []) == []  # a suite that the claim does not name
