"""Snakemake looks at the ready jobs again once a second, not once a second for every job that has ended."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

from snakemake.scheduling.job_scheduler import JobScheduler

RULES = Path(__file__).parents[2] / "workflow/rules/scheduling.smk"


def test_a_look_is_planned_only_if_none_is(monkeypatch):
    monkeypatch.setattr(JobScheduler, "_schedule_reevalutation", JobScheduler._schedule_reevalutation)
    exec(compile(RULES.read_text(), str(RULES), "exec"), {})
    looks = threading.Semaphore(0)
    scheduler = SimpleNamespace(_open_jobs=looks)
    for _ in range(2):  # the look that was planned does not stand in the way of the next
        for _ in range(50):
            JobScheduler._schedule_reevalutation(scheduler, 0.2)
        assert looks.acquire(timeout=20)
        assert not looks.acquire(timeout=0.5)
