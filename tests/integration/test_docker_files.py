"""The images' and the stack's files, as far as they can be checked without a Docker engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
IMAGES = [DOCKER / "worker.Dockerfile", DOCKER / "learner.Dockerfile"]
STACKS = [["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"], ["compose.worker.yaml"]]
SETTINGS = {"AUDIO": "/audio", "REPLAY": "/replay", "KEYS": "/keys", "COORDINATOR": "tcp://learner-host:5555"}


def services(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DOCKER / name).read_text(encoding="utf-8"))["services"]
    return loaded


def subset(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DOCKER / "subset_lock.py"), str(ROOT / "requirements.lock"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def names(lock: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))


# -- compose ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", STACKS, ids="+".join)
def test_compose_accepts_each_combination(files: list[str]) -> None:
    if shutil.which("docker") is None or subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no docker command with compose v2 on this host")
    command = ["docker", "compose", *(word for file in files for word in ("-f", str(DOCKER / file))), "config", "--quiet"]
    without = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    for environment, accepted in (({**without, **SETTINGS}, True), (without, False)):  # a stack without recordings must not start
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode == 0) == accepted, done.stderr


@pytest.mark.parametrize("name", ["compose.yaml", "compose.worker.yaml"])
def test_services_are_confined(name: str) -> None:
    for service, value in services(name).items():
        assert value["read_only"], service
        assert value["init"], service
        assert value["cap_drop"] == ["ALL"], service
        assert "no-new-privileges:true" in value["security_opt"], service
        assert not value.get("privileged"), service


@pytest.mark.parametrize("name", ["compose.yaml", "compose.worker.yaml"])
def test_workers_can_be_scaled(name: str) -> None:
    worker = services(name)["worker"]
    assert not {"container_name", "ports", "hostname"} & set(worker)
    assert worker["restart"] == "on-failure"


@pytest.mark.parametrize("name", ["compose.yaml", "compose.worker.yaml"])
def test_unfinished_files_of_workers_are_on_disk_and_not_in_their_memory(name: str) -> None:
    """With a store on s3:// a whole lease lies there. Workers share it, so that one removes what a killed one has left."""
    stack = yaml.safe_load((DOCKER / name).read_text(encoding="utf-8"))
    worker = stack["services"]["worker"]
    (folder,) = [str(entry).removeprefix("TMPDIR=") for entry in worker["environment"] if str(entry).startswith("TMPDIR=")]
    assert f"scratch:{folder}" in worker["volumes"]
    assert "scratch" in stack["volumes"]
    assert folder not in worker["tmpfs"]
    assert folder == "/var/tmp"  # the images' own is anybody's to write into, and a new volume takes that over


def test_restarts_are_not_counted() -> None:
    """Docker would count them over a container's whole life, and leave a run of weeks lying at its fifth mishap."""
    for name in ("compose.yaml", "compose.worker.yaml"):
        assert {service.get("restart") for service in services(name).values()} <= {None, "on-failure", "unless-stopped"}
    assert services("compose.yaml")["learner"]["restart"] == "on-failure"


def test_nothing_is_published_beyond_this_host_by_itself() -> None:
    published = [port for service in services("compose.yaml").values() for port in service.get("ports", [])]
    assert len(published) == 2
    for port in published:
        assert re.match(r"(127\.0\.0\.1|\$\{COORDINATOR_BIND:-127\.0\.0\.1\}):", port)


def test_nobody_but_the_learner_reaches_mlflow() -> None:
    """It has no passwords. The networks are plain ones: ports of an internal one could not be published."""
    stack = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    joined = {
        name: set(service.get("networks", ["default"])) for name, service in stack["services"].items() if "network_mode" not in service
    }
    (with_mlflow,) = joined["mlflow"]
    assert [name for name, networks in joined.items() if with_mlflow in networks] == ["mlflow", "learner"]
    assert joined["worker"] < joined["learner"]
    assert stack["networks"] == dict.fromkeys(set().union(*joined.values()))


def test_the_coordinators_connections_are_bounded() -> None:
    assert services("compose.yaml")["learner"]["ulimits"] == {"nofile": 4096}


def test_recordings_are_mounted_read_only_and_never_created() -> None:
    stacks = {"compose.yaml": ("learner", "worker"), "compose.worker.yaml": ("worker",)}
    for name, users in stacks.items():
        for user in users:
            (audio,) = [v for v in services(name)[user]["volumes"] if isinstance(v, dict) and v["target"] == "/audio"]
            assert audio["read_only"]
            assert audio["bind"]["create_host_path"] is False


def test_folders_in_examples_are_absolute() -> None:
    """Compose takes a relative one from docker/, wherever it is called, and a bare word for the name of a volume."""
    for path in (ROOT / "docs" / "cluster.md", DOCKER / "compose.yaml", DOCKER / "compose.worker.yaml"):
        given = re.findall(r"\b(?:AUDIO|REPLAY|KEYS)=(\S+)", path.read_text(encoding="utf-8"))
        assert given
        assert all(value.startswith(("/", "$PWD/")) for value in given), given


def test_workers_never_see_the_coordinators_secret() -> None:
    stack = services("compose.yaml")
    assert "keys:/keys:ro" in stack["learner"]["volumes"]
    assert [v for v in stack["worker"]["volumes"] if "keys" in str(v)] == ["worker-keys:/keys:ro"]


def test_the_learner_has_time_for_its_last_checkpoint() -> None:
    from workers import supervisor

    grace = int(services("compose.yaml")["learner"]["stop_grace_period"].removesuffix("s"))
    assert grace > supervisor.LEARNER_END_S + 3 * supervisor.OTHERS_END_S + supervisor.TRACKER_END_S


def test_the_gpu_file_adds_nothing_but_the_image_and_the_device() -> None:
    for service, value in services("compose.gpu.yaml").items():
        assert set(value) <= {"image", "build", "deploy"}, service
    assert "deploy" in services("compose.gpu.yaml")["learner"]
    assert not any("deploy" in value or "gpus" in value for value in services("compose.yaml").values())  # it would fail without a GPU


# -- images -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_image_is_pinned_unprivileged_and_stops_on_sigterm(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert not any(line.startswith("# syntax") for line in lines[:1])
    assert {line.split()[1] for line in lines if line.startswith("FROM ")} == {"python:3.11-slim"}
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert users[-1].split(":")[0] not in ("0", "root")
    (entry,) = [line for line in lines if line.startswith("ENTRYPOINT ")]
    assert entry.startswith('ENTRYPOINT ["python"')
    installs = [line for line in lines if "pip install" in line]
    assert installs
    assert all("--require-hashes" in line and "--no-deps" in line for line in installs)


def test_no_key_gets_into_an_image() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines.index("**/*.key_secret") > max(
        i for i, line in enumerate(lines) if line.startswith("!")
    )  # the last line that fits decides
    assert "*.key_secret" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    for image in IMAGES:
        text = image.read_text(encoding="utf-8")
        assert not re.search(r"^(ARG|ENV|RUN).*(secret|password|keys init)", text, re.MULTILINE | re.IGNORECASE)
    for stack in ("compose.yaml", "compose.worker.yaml"):  # keys come by mounts, at run time
        for service, value in services(stack).items():
            given = value.get("environment") or []  # a name alone is handed on from the host's environment at run time
            fixed = [str(entry) for entry in given if isinstance(given, dict) or "=" in str(entry)]
            assert "KEY" not in " ".join(fixed).upper(), service
            assert "keys" not in str(value.get("build", "")), service


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_image_copies_only_what_the_context_holds(path: Path) -> None:
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", path.read_text(encoding="utf-8"), re.MULTILINE)
    for source in " ".join(copied).split():
        assert (ROOT / source).exists(), source
        assert any(Path(source).match(pattern) for pattern in let_in), f".dockerignore keeps {source} out"


def test_no_package_index_is_named() -> None:
    index = re.compile(r"index.url|find-links|trusted-host|https?://(?!127\.0\.0\.1|mlflow:)")
    for path in [*DOCKER.iterdir(), ROOT / ".dockerignore"]:
        if path.is_file():
            assert not index.search(path.read_text(encoding="utf-8")), path


def test_every_gpu_package_that_is_left_out_is_in_the_lock() -> None:
    left_out = (DOCKER / "gpu_packages.txt").read_text(encoding="utf-8").split()
    done = subset("--project", str(ROOT / "pyproject.toml"), "--without", *left_out)
    assert done.returncode == 0, done.stderr
    kept = names(done.stdout)
    assert {"torch", "torchaudio", "mlflow", "nvidia-cuda-runtime", "nvidia-cuda-cupti", "nvidia-cufile"} <= kept
    assert not kept & {*left_out, "pytest", "hypothesis", "librosa", "ruff"}


# -- subset_lock ------------------------------------------------------------------------------------------------------------------------


def test_subset_keeps_what_is_needed_and_the_lines_as_they_are() -> None:
    done = subset("--roots", "soundfile")
    assert names(done.stdout) == {"soundfile", "numpy", "cffi", "pycparser", "typing-extensions"}
    assert set(done.stdout.splitlines()) <= set((ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines())
    for entry in re.split(r"\n(?=\S)", done.stdout.strip()):
        assert "--hash=sha256:" in entry


def test_subset_leaves_out_what_only_a_left_out_package_needs() -> None:
    assert names(subset("--roots", "soundfile", "--without", "cffi").stdout) == {"soundfile", "numpy", "typing-extensions"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--roots", "soundfiel"), "the lock does not hold soundfiel"),
        (("--roots", "soundfile", "--without", "nvidea-*"), "nothing in the lock is called 'nvidea-*'"),
        (("--project", "missing.toml"), "missing.toml"),
    ],
)
def test_subset_names_what_is_wrong(arguments: tuple[str, ...], complaint: str) -> None:
    done = subset(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert complaint in done.stderr


def test_subset_refuses_a_lock_without_hashes(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("numpy==2.0\n", encoding="utf-8")
    command = [sys.executable, str(DOCKER / "subset_lock.py"), str(lock), "--roots", "numpy"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "not pinned with a hash" in done.stderr


# -- start_learner ----------------------------------------------------------------------------------------------------------------------

START = """\
import json, sys
import launch, start_learner
launch.main = lambda arguments: print(json.dumps(list(arguments))) or 0
sys.exit(start_learner.main(sys.argv[1:]))
"""


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(DOCKER)])}
    command = [sys.executable, "-c", START, *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_a_restarted_learner_goes_on_with_its_run(tmp_path: Path) -> None:
    words = ["--configs", "defaults", "debug", "--source.path", str(tmp_path), "--run.dir", str(tmp_path), "--run.name", "main"]
    first = start(*words)
    assert yaml.safe_load(first.stdout) == ["--role", "learner", *words]
    (tmp_path / "main").mkdir()
    (tmp_path / "main" / "config.yaml").write_text("", encoding="utf-8")
    again = start(*words)
    assert yaml.safe_load(again.stdout) == ["--role", "learner", "--resume", str(tmp_path / "main"), *words[3:]]


def test_a_learner_without_a_name_for_its_run_is_refused(tmp_path: Path) -> None:
    done = start("--configs", "defaults", "debug", "--source.path", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "--run.name" in done.stderr


# -- cuda_stubs -------------------------------------------------------------------------------------------------------------------------


def test_stubs_offer_what_torch_asks_for_under_its_version_and_say_that_they_were_called(tmp_path: Path) -> None:
    import torch

    libraries = Path(torch.__file__).parent / "lib"
    if shutil.which("gcc") is None or not (libraries / "libtorch_cuda.so").exists():
        pytest.skip("needs gcc and the CUDA build of torch")
    for name in ("libtorch_cuda.so", "libtorch_nvshmem.so", "libtorch_python.so"):
        (tmp_path / name).symlink_to(libraries / name)
    subprocess.run([sys.executable, str(DOCKER / "cuda_stubs.py"), str(tmp_path)], check=True, capture_output=True, timeout=120)
    made = {path.name: path for path in tmp_path.iterdir() if not path.is_symlink()}
    assert len(made) == 9
    assert sum(path.stat().st_size for path in made.values()) < 500_000
    listing = subprocess.run(
        ["nm", "-D", "--with-symbol-versions", str(made["libcublas.so.13"])], check=True, capture_output=True, text=True
    )
    assert re.search(r" T cublasSgemm_v2@@libcublas\.so\.13$", listing.stdout, re.MULTILINE)
    call = f"import ctypes; ctypes.CDLL({str(made['libnccl.so.2'])!r}).ncclGetUniqueId()"
    called = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=False, timeout=60)
    assert called.returncode < 0  # aborted
    assert "ncclGetUniqueId was called" in called.stderr
