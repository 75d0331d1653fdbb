# Coordinator, learner, evaluator, tracker, and the MLflow server.
#   docker build -f docker/learner.Dockerfile -t pydreaming-learner .                          for hosts without a GPU
#   docker build -f docker/learner.Dockerfile -t pydreaming-learner:gpu --build-arg GPU=1 .    for NVIDIA GPUs, and for others
FROM python:3.11-slim AS packages
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY requirements.lock pyproject.toml docker/gpu_packages.txt docker/subset_lock.py docker/cuda_stubs.py ./
ARG GPU=0
RUN --mount=type=cache,target=/pip-cache \
    python -m venv /opt/venv \
    && case "$GPU" in 0) without="--without $(cat gpu_packages.txt)" ;; 1) without= ;; *) echo "GPU is 0 or 1" >&2; exit 2 ;; esac \
    && python subset_lock.py requirements.lock --project pyproject.toml $without > subset.lock \
    && /opt/venv/bin/pip install --quiet --disable-pip-version-check --cache-dir /pip-cache --no-deps --require-hashes -r subset.lock \
    && { [ "$GPU" = 1 ] || python cuda_stubs.py /opt/venv/lib/python3.11/site-packages/torch/lib; } \
    && /opt/venv/bin/pip uninstall --quiet --yes pip

FROM python:3.11-slim
# The folders are made here so that new volumes mounted there belong to the user.
RUN useradd --uid 1000 --user-group --no-create-home --home-dir /tmp pydreaming \
    && install -d -o pydreaming -g pydreaming -m 0750 /mlflow /replay /runs \
    && install -d -o pydreaming -g pydreaming -m 0700 /keys /worker-keys
COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY configs configs
COPY pydreaming pydreaming
COPY workers workers
COPY docker/start_learner.py launch.py ./
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MPLCONFIGDIR=/tmp/matplotlib MLFLOW_DISABLE_TELEMETRY=true
RUN python launch.py --help > /dev/null \
    && python -c "import torch, torchaudio, workers.coordinator, workers.evaluator, workers.learner, workers.tracker; from mlflow import server"
USER 1000:1000
# The coordinator listens. A connection that says nothing does no harm there.
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --retries=3 \
    CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 5555), 3).close()"]
ENTRYPOINT ["python", "start_learner.py"]
