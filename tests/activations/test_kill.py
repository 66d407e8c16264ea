"""A collection that is killed (SIGKILL) again and again, at the worst moments, ends in the bytes of an unbroken one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from suture.activations.store import Store

SCRIPT = '''
"""Children of this process collect and are killed; each goes on where the one before was stopped."""
import os, signal, sys
import torch
from suture.pipeline import artifact
from suture.activations import collect as step, shards
from suture.lm.corpus import open_corpus
from suture.lm.load import load_model

one, two, corpus, broken, whole = sys.argv[1:]
torch.set_num_threads(1)  # nothing may run in parallel before a fork


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def after_rows(n):
    return {"on_progress": lambda p: die() if p.n_rows >= n else None}


def while_shards_sync(n):
    real, calls = os.fsync, [0]

    def fsync(stream):
        calls[0] += 1
        return die() if calls[0] == n else real(stream)

    shards.os.fsync = fsync
    return {}


def before_index():
    step.write_index = die
    return {}


def before_manifest():
    artifact._write_manifest = die
    return {}


models = [(load_model(one, device="cpu"), "mlp0.out"), (load_model(two, device="cpu"), "resid0.post")]


def run(path, options):
    step.collect(path, sources=models, corpus=open_corpus(corpus), n_rows=2321, block=20, batch_tokens=200,
                 shard_rows=500, resume=True, **options)


def child(path, moment):
    pid = os.fork()
    if pid == 0:
        try:
            run(path, moment())
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


moments = [lambda: after_rows(0), lambda: after_rows(300), lambda: after_rows(1600), lambda: while_shards_sync(3),
           lambda: while_shards_sync(12), before_index, before_manifest]
for moment in moments:
    assert child(broken, moment) == -signal.SIGKILL, "the child was to be killed"
assert child(broken, dict) == 0
assert child(whole, dict) == 0
'''


def test_a_run_killed_at_any_moment_ends_in_the_same_bytes(
    tmp_path: Path, model_folders: dict[str, Path], corpus_file: Path
) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    script = tmp_path / "killed.py"
    script.write_text(SCRIPT)
    arguments = [model_folders["one"], model_folders["two"], corpus_file, tmp_path / "broken", tmp_path / "whole"]
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    broken, whole = Store.open(tmp_path / "broken"), Store.open(tmp_path / "whole")
    assert len(whole) == 2321
    assert len(whole.shards) == 5
    assert broken.manifest.files == whole.manifest.files
    assert broken.manifest.settings == whole.manifest.settings
