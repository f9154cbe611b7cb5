# With a limit of the rate at which jobs start, by default 100 in a second, Snakemake looks at all ready jobs again a second
# after each look, and after the end of each job once more, so that the looks become more and more: 7 minutes of processor
# time for the 340 jobs of the demo. Here a look is planned only if none is planned already.
import threading

from snakemake.scheduling.job_scheduler import JobScheduler


def plan_look(scheduler, delay):
    """Let the scheduler look at the ready jobs again after `delay` seconds, unless it is to do so anyway."""

    def look():
        scheduler.look_is_planned = False
        scheduler._open_jobs.release()

    if not getattr(scheduler, "look_is_planned", False):
        scheduler.look_is_planned = True
        threading.Timer(delay, look).start()


JobScheduler._schedule_reevalutation = plan_look
