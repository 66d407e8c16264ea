"""A sweep on a real Ray cluster of two nodes on this machine, one of which is killed in the middle, ends complete."""

import importlib.util
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from suture.errors import UserError
from suture.sweep.run import run_jobs
from sweep.test_run import states, times_begun
from sweep.toys import toy

HAS_RAY = importlib.util.find_spec("ray") is not None
STORE_BYTES = 80 * 2**20
"""The least that Ray takes is 75 MB."""


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_one_line_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs Ray, which is not installed; pip install 'suture\[ray\]'"):
        run_jobs([toy(tmp_path, "a")], ray="auto")


@pytest.mark.slow
@pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed")
@pytest.mark.filterwarnings("ignore")
def test_a_node_that_is_killed_takes_no_job_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster: Any = Cluster(initialize_head=True, head_node_args=options)
    try:
        second = cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        cluster.wait_for_nodes()
        jobs = [toy(tmp_path, f"job{n}", n, seconds=1.5) for n in range(6)]
        after = toy(tmp_path, "after", 9, jobs[0], jobs[1])

        def kill() -> None:
            while sum((tmp_path / f"job{n}.log").exists() for n in range(6)) < 3:
                time.sleep(0.1)
            cluster.remove_node(second, allow_graceful=False)

        killer = threading.Thread(target=kill)
        killer.start()
        results = run_jobs([*jobs, after], ray=cluster.address)
        killer.join()
        assert set(states(results).values()) == {"made"}, [str(r.error) for r in results]
        assert (after.out / "value").read_text() == "0 1 9"
        assert sum(times_begun(job) for job in jobs) >= 6
        assert not list(tmp_path.glob("*.partial"))
    finally:
        cluster.shutdown()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed")
@pytest.mark.filterwarnings("ignore")
def test_where_a_cluster_has_gpus_a_job_that_may_use_one_gets_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray hands out GPUs by number, whether they are there or not."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"num_cpus": 4, "num_gpus": 2, "object_store_memory": STORE_BYTES}
    cluster: Any = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    try:
        device = {"auto": "auto", "named": "cuda", "again": "auto"}
        jobs = [replace(toy(tmp_path, name, seconds=2.0), device=own) for name, own in device.items()]
        results = run_jobs(jobs, ray=cluster.address)
        assert set(states(results).values()) == {"made"}, [str(r.error) for r in results]
        logs = {name: (tmp_path / f"{name}.log").read_text().split("\n") for name in device}
        sees = {name: next(line.removeprefix("sees ") for line in log if "sees" in line) for name, log in logs.items()}
        assert set(sees.values()) == {"0", "1"}
    finally:
        cluster.shutdown()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
