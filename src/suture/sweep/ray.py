"""Jobs on a Ray cluster: the only door to Ray.

Outputs lie on a disk that all nodes share. A node that dies takes its jobs with it, and the runner starts them again;
the lock on their output is dead with its holder.
"""

import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from suture.errors import UserError
from suture.pipeline.job import Context, Job, silent


class Cluster:
    """Workers of a Ray cluster, one job for each of its processors."""

    def __init__(self, address: str, execute: Callable[..., Any], failed: Callable[[Exception], Any]) -> None:
        """Connect.

        Args:
            address: `auto` for the cluster of this machine, or `HOST:PORT`.
            execute: runs a job.
            failed: what became of a job that could not be run.

        Raises:
            UserError: Ray is not installed, or there is no cluster.
        """
        self._failed = failed
        try:
            self._ray: Any = importlib.import_module("ray")
        except ImportError:
            raise UserError("ray", address, "needs Ray, which is not installed", "pip install 'suture[ray]'") from None
        try:
            self._ray.init(address=address, log_to_driver=False, configure_logging=False, ignore_reinit_error=True)
        except (ConnectionError, RuntimeError, ValueError) as error:
            problem = f"there is no cluster ({str(error).splitlines()[0]})"
            raise UserError("ray", address, problem, "start one with ray start --head") from None
        self._run, self._execute = self._ray.remote(_at), execute
        self._has_gpus = self._ray.cluster_resources().get("GPU", 0) > 0
        self._busy: dict[Any, Job] = {}

    @property
    def has_room(self) -> bool:
        """Whether a processor is free, so far as this runner's own jobs go."""
        return len(self._busy) < max(1, int(self._ray.cluster_resources().get("CPU", 0)))

    def start(self, job: Job, context: Context) -> None:
        """Hand it to a node."""
        n_gpus = int(job.device.startswith("cuda") or (job.device == "auto" and self._has_gpus))
        run = self._run.options(num_cpus=1, num_gpus=n_gpus, max_retries=0, scheduling_strategy="SPREAD")
        self._busy[run.remote(os.getcwd(), self._execute, job, replace(context, tell=silent))] = job

    def ended(self) -> Iterator[tuple[Job, Any]]:
        """Wait for one."""
        (done, *_), _ = self._ray.wait(list(self._busy), num_returns=1)
        job = self._busy.pop(done)
        try:
            yield job, self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:  # it could not even begin: no suture on that node, for one
            yield job, self._failed(error)
        except self._ray.exceptions.RayError:
            yield job, None

    def close(self) -> None:
        """Let go of what still runs, and of the cluster."""
        for running in self._busy:
            self._ray.cancel(running, force=True)
        self._ray.shutdown()


def _at(folder: str, execute: Callable[..., Any], job: Job, context: Context) -> Any:
    """Run a job in the folder that its paths begin at: another node works in one of its own."""
    os.chdir(folder)
    return execute(job, context)
