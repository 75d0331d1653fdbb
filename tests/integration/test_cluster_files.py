"""Kubernetes manifests and SLURM scripts: their schema, their confinement, and that they place the commands that compose does."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import launch
from pydreaming import cli
from pydreaming.audio.sources.fsdd_download import bundled_digits
from pydreaming.config import Config
from pydreaming.keys import KeyRing, add_peer, init_keys, load_client_keys, load_server_keys
from pydreaming.tracking.live import read_run
from workers import audio_worker

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "docker" / "kubernetes"
ON_GPU = ROOT / "docker" / "kubernetes-gpu"
SCRIPTS = sorted((ROOT / "docker" / "slurm").glob("*.sbatch"))
VERSION = "1.31"


def documents() -> list[dict[str, Any]]:
    files = [path for path in sorted(MANIFESTS.glob("*.yaml")) if path.name != "kustomization.yaml"]
    return [document for path in files for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = [d for d in documents() if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    return found


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for document in documents():
        if document["kind"] in ("Deployment", "Job"):
            yield document["metadata"]["name"], document["spec"]["template"]["spec"]


def container(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = pod["containers"]
    return dict(found)


def compose(service: str, key: str) -> list[str]:
    """A command of compose.yaml with the variables' own values in their places."""
    words = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))["services"][service][key]
    text = words if isinstance(words, str) else shlex.join(words)
    return shlex.split(re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", text))


def configuration(words: list[str]) -> tuple[Config, Path]:
    return launch.resolve(*launch.parse(words))


# -- Kubernetes -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", documents(), ids=lambda d: f"{d['kind']}-{d['metadata']['name']}")
def test_every_manifest_keeps_the_schema(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, VERSION, strict=True)


def test_kustomize_lists_every_file_and_patches_what_is_there() -> None:
    listed = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    assert sorted(listed) == sorted(path.name for path in MANIFESTS.glob("*.yaml") if path.name != "kustomization.yaml")
    (patch,) = yaml.safe_load((ON_GPU / "kustomization.yaml").read_text(encoding="utf-8"))["patches"]
    pod = named(**patch["target"])["spec"]["template"]["spec"]
    assert container(pod)["name"] == "learner"
    for change in yaml.safe_load(patch["patch"]):
        at: Any = named(**patch["target"])
        *parents, _ = [part.replace("~1", "/") for part in change["path"].split("/")[1:]]
        for part in parents:
            at = at[int(part)] if isinstance(at, list) else at[part]


@pytest.mark.parametrize("folder", [MANIFESTS, ON_GPU], ids=lambda path: path.name)
def test_no_kustomization_is_based_on_a_folder_around_it(folder: Path) -> None:
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    assert listed
    for entry in listed:
        path = (folder / entry).resolve()
        assert path.exists()
        assert path not in (folder, *folder.parents), f"kustomize refuses {entry}: a cycle"


@pytest.mark.parametrize("registry", ["", "registry.example/"], ids=["local", "pushed"])
def test_kustomize_trains_on_the_gpu_image_and_leaves_the_others(registry: str, tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl on this host")
    shutil.copytree(MANIFESTS, tmp_path / MANIFESTS.name)
    shutil.copytree(ON_GPU, tmp_path / ON_GPU.name)
    if registry:  # as docs/cluster.md asks for
        for folder in (MANIFESTS.name, ON_GPU.name):
            file = tmp_path / folder / "kustomization.yaml"
            text = re.sub(r"^# (images:|  - )", r"\1", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
            file.write_text(text.replace("newName: pydreaming", f"newName: {registry}pydreaming"), encoding="utf-8")
    built = subprocess.run(["kubectl", "kustomize", ON_GPU.name], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert built.returncode == 0, built.stderr
    images = {}
    for document in yaml.safe_load_all(built.stdout):
        if document["kind"] in ("Deployment", "Job"):
            pod = document["spec"]["template"]["spec"]
            images[document["metadata"]["name"]] = {c["image"] for c in [*pod.get("initContainers", []), *pod["containers"]]}
    tag = ":1" if registry else ""
    assert images == {
        "learner": {f"{registry}pydreaming-learner:gpu"}, "mlflow": {f"{registry}pydreaming-learner{tag}"},
        "worker": {f"{registry}pydreaming-worker{tag}"},
    }  # fmt: skip


def test_the_learner_is_the_one_of_compose() -> None:
    args = container(named("Job", "learner")["spec"]["template"]["spec"])["args"]
    ours, folder = configuration(args)
    theirs, their_folder = configuration(compose("learner", "command"))
    assert folder == their_folder == Path("/runs/main")
    assert {s: v for s, v in ours.to_dict().items() if s != "tracking"} == {s: v for s, v in theirs.to_dict().items() if s != "tracking"}
    assert (ours.tracking.uri, ours.tracking.logs) == (theirs.tracking.uri, "json")


def test_workers_and_mlflow_are_those_of_compose() -> None:
    ours = audio_worker.parse(container(named("Deployment", "worker")["spec"]["template"]["spec"])["args"])
    theirs = audio_worker.parse(compose("worker", "command"))
    assert {**vars(ours), "logs": None} == vars(theirs)
    mlflow = container(named("Deployment", "mlflow")["spec"]["template"]["spec"])
    assert mlflow["command"] == compose("mlflow", "entrypoint")
    assert mlflow["args"] == compose("mlflow", "command")


@pytest.mark.parametrize("service", ["mlflow", "learner"])
def test_names_in_commands_are_services(service: str) -> None:
    (port,) = named("Service", service)["spec"]["ports"]
    spoken = " ".join(word for _, pod in pods() for word in container(pod)["args"])
    assert re.search(rf"(http|tcp)://{service}:{port['port']}\b", spoken)
    workload = {"mlflow": ("Deployment", "mlflow"), "learner": ("Job", "learner")}[service]
    labels = named(*workload)["spec"]["template"]["metadata"]["labels"]
    assert named("Service", service)["spec"]["selector"].items() <= labels.items()


@pytest.mark.parametrize(("name", "pod"), list(pods()), ids=[name for name, _ in pods()])
def test_pods_are_confined_and_their_volumes_exist(name: str, pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == 1000  # the images' user
    assert pod["automountServiceAccountToken"] is False
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for each in [*pod.get("initContainers", []), *pod["containers"]]:
        security = each["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"]["drop"] == ["ALL"]
        assert "memory" in each["resources"]["limits"]
        mounts = {mount["name"]: mount for mount in each["volumeMounts"]}
        assert mounts.keys() <= volumes.keys()
        if "recordings" in mounts:
            assert mounts["recordings"]["readOnly"]
    for volume in volumes.values():
        if "persistentVolumeClaim" in volume:
            named("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
    policy = named("NetworkPolicy", name)["spec"]
    assert policy["podSelector"]["matchLabels"] == {"app": name}


def test_the_coordinators_secret_stays_with_the_learner() -> None:
    secrets = {name: [v["secret"] for v in pod["volumes"] if "secret" in v] for name, pod in pods()}
    keys = {name: {item["key"] for secret in found for item in secret.get("items", [])} for name, found in secrets.items()}
    assert "server.key_secret" in keys["learner"]
    # Whole, so that keys may come and go: these are public.
    assert [(name, s["secretName"]) for name, found in secrets.items() for s in found if "items" not in s] == [
        ("learner", "authorized-keys")
    ]
    assert keys["worker"] == {"client.key_secret", "server.key"}
    assert not keys["mlflow"]


@pytest.mark.parametrize("name", ["learner", "worker"])
def test_keys_come_from_secrets_each_time_a_pod_prepares_itself(name: str, tmp_path: Path) -> None:
    """The init container's command over folders that look as a Secret's do: links into a hidden folder, for the group to read."""
    made = tmp_path / "made"
    init_keys(made)
    add_peer(made, "workers")
    sources = {"learner": [made, made / "peers" / "local"], "worker": [made / "peers" / "workers"]}[name]
    pod = dict(pods())[name]
    (items,) = [v["secret"]["items"] for v in pod["volumes"] if v["name"] == "secret"]
    secret, authorized, keys = (tmp_path / folder for folder in ("secret", "authorized", "keys"))
    mounts = {secret: {i["path"]: next(p for s in sources if (p := s / i["key"]).exists()) for i in items}}
    mounts[authorized] = {path.name: path for path in (made / "authorized").iterdir()}
    keys.mkdir()
    for folder, files in mounts.items():
        (folder / "..2026").mkdir(parents=True)
        (folder / "..data").symlink_to("..2026")
        for path, source in files.items():
            shutil.copyfile(source, folder / "..2026" / path)
            (folder / "..2026" / path).chmod(0o440)
            (folder / path).symlink_to(f"..data/{path}")
    (prepare,) = pod["initContainers"]
    command = [
        re.sub(r"(?<![\w/])/(secret|authorized)\b", rf"{tmp_path}/\1", word).replace(" /keys", f" {keys}") for word in prepare["command"]
    ]
    for _ in range(2):  # a kubelet may do it again, over what is there
        subprocess.run(command, check=True, timeout=20)
    files = [path for path in keys.rglob("*") if path.is_file() and not path.is_symlink() and path.parent == keys]
    assert {path.name for path in files} == {item["path"] for item in items}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o400}
    assert not [path for path in keys.iterdir() if path.is_dir() and not path.is_symlink()]
    load_client_keys(keys)
    if name == "learner":
        ring = KeyRing(load_server_keys(keys).folder)
        ring.refresh()
        assert [(peer.name, peer.state) for peer in ring.peers()] == [("local", "authorized"), ("workers", "authorized")]
        (authorized / "workers.key").unlink()  # as a changed Secret does it
        assert ring.refresh()
        assert [peer.name for peer in ring.peers()] == ["local"]


def test_probes_ask_the_run_itself(capsys: pytest.CaptureFixture[str]) -> None:
    job = container(named("Job", "learner")["spec"]["template"]["spec"])
    for probe in ("startupProbe", "livenessProbe"):
        python, flag, module, *words = job[probe]["exec"]["command"]
        assert (python, flag, module, words[-1]) == ("python", "-m", "pydreaming.cli", "/runs/main")
        assert cli.main(words) == 1  # there is no such run here; a wrong command would give 2
    assert "no run at /runs/main" in capsys.readouterr().err


# -- SLURM ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_and_say_what_is_missing(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True, check=False).returncode == 0
    bare = {name: value for name, value in os.environ.items() if name not in ("AUDIO", "RUNS")}
    done = subprocess.run(["bash", str(script)], env=bare, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 1
    assert "set AUDIO to the folder of the recordings" in done.stderr
    options = re.findall(r"^#SBATCH --([a-z-]+)", script.read_text(encoding="utf-8"), re.MULTILINE)
    assert {"job-name", "ntasks", "cpus-per-task", "mem", "time", "output", "requeue"} <= set(options)


PLAYED = """#!/bin/sh
echo "$4" >> "$RUNS/calls"
case "$4" in
  tcp://old:1) echo tcp://new:1 > "$RUNS/main.address"; sleep 1.2; exit 1 ;;
  tcp://strange:1) exit 3 ;;
esac
"""


@pytest.mark.parametrize(
    ("found", "calls", "code"),
    [("tcp://old:1", ["tcp://old:1", "tcp://new:1"], 0), ("tcp://strange:1", ["tcp://strange:1"], 3), ("ended", [], 0)],
    ids=["elsewhere", "refused", "over"],
)
def test_workers_look_for_a_learner_that_begins_anew_elsewhere(found: str, calls: list[str], code: int, tmp_path: Path) -> None:
    worker = tmp_path / "python"
    worker.write_text(PLAYED, encoding="utf-8")
    worker.chmod(0o755)
    (tmp_path / "main.address").write_text(f"{found}\n", encoding="utf-8")
    (tmp_path / "calls").touch()
    environment = {**os.environ, "AUDIO": "/audio", "RUNS": str(tmp_path), "RUN_NAME": "main", "PYTHON": str(worker), "PATIENCE": "1"}
    script = ROOT / "docker" / "slurm" / "workers.sbatch"
    done = subprocess.run(["bash", str(script)], env=environment, cwd=ROOT, check=False, timeout=30)
    assert (tmp_path / "calls").read_text(encoding="utf-8").split() == calls
    assert done.returncode == code


@pytest.mark.slow
def test_the_scripts_train_a_run(tmp_path: Path) -> None:
    """The real scripts and processes. Where they use `srun` it is played here: at SIGTERM it kills its command, as SLURM's does."""
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\n\"$@\" & child=$!\ntrap 'kill -KILL $child' TERM\nwait $child\n")
    srun.chmod(srun.stat().st_mode | stat.S_IXUSR)
    environment = {
        **os.environ, "PATH": f"{srun.parent}:{os.environ['PATH']}", "AUDIO": str(bundled_digits()), "RUNS": str(tmp_path / "runs"),
        "RUN_NAME": "digits", "PRESETS": "defaults fsdd debug", "PYTHON": sys.executable,
        "SETTINGS": "--training.steps 1000000 --workers.passes 0",
    }  # fmt: skip
    with_port = dict(environment, PORT=str(20000 + os.getpid() % 20000))
    learner, workers = (
        subprocess.Popen(["bash", str(ROOT / "docker" / "slurm" / name)], cwd=ROOT, env=with_port, start_new_session=True)
        for name in ("learner.sbatch", "workers.sbatch")
    )
    try:
        end = time.monotonic() + 240
        run = tmp_path / "runs" / "digits"
        while not (run / "status" / "learner.json").exists() or not (now := read_run(run)).learner or now.learner.step < 5:
            assert learner.poll() is None
            assert time.monotonic() < end
            time.sleep(0.5)
        assert now.collection is not None
        assert len(now.collection.workers) == 1
        learner.terminate()  # as SLURM does before the time is over
        assert learner.wait(120) == 0
        with contextlib.suppress(ProcessLookupError):  # it may have heard of the end already
            os.killpg(workers.pid, signal.SIGTERM)  # as `scancel` does
        assert workers.wait(30) in (0, -signal.SIGTERM)
    finally:
        for process in (learner, workers):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert list((run / "checkpoints").glob("step-*"))
    assert not run.with_suffix(".address").exists(), "workers that begin now would go to a learner that is not there"
    assert stat.S_IMODE((tmp_path / "runs" / "keys" / "server.key_secret").stat().st_mode) == 0o600
