# An audio worker: decodes recordings, computes log-mel tokens, writes episodes. No GPU, no MLflow.
#   docker build -f docker/worker.Dockerfile -t pydreaming-worker .
FROM python:3.11-slim AS packages
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY requirements.lock docker/gpu_packages.txt docker/subset_lock.py docker/cuda_stubs.py ./
# sympy, networkx and setuptools serve torch's compiler, which a worker does not use.
RUN --mount=type=cache,target=/pip-cache \
    python -m venv /opt/venv \
    && python subset_lock.py requirements.lock \
         --roots torch torchaudio numpy soundfile pyarrow pyzmq msgspec pyyaml structlog tqdm \
         --without $(cat gpu_packages.txt) sympy networkx setuptools > subset.lock \
    && /opt/venv/bin/pip install --quiet --disable-pip-version-check --cache-dir /pip-cache --no-deps --require-hashes -r subset.lock \
    && python cuda_stubs.py /opt/venv/lib/python3.11/site-packages/torch/lib \
    && /opt/venv/bin/pip uninstall --quiet --yes pip setuptools

FROM python:3.11-slim
# The folders are made here so that new volumes mounted there belong to the user.
RUN useradd --uid 1000 --user-group --no-create-home --home-dir /tmp pydreaming \
    && install -d -o pydreaming -g pydreaming -m 0750 /replay && install -d -o pydreaming -g pydreaming -m 0700 /keys
COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY configs configs
COPY pydreaming pydreaming
COPY workers workers
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Fails the build, not the cluster, when a package is missing or does not load.
RUN python -m workers.audio_worker --help > /dev/null \
    && python -c "import torch, torchaudio; torch.stft(torch.ones(512), 512, window=torch.ones(512), return_complex=True); \
torchaudio.functional.resample(torch.ones(800), 8000, 16000); torchaudio.functional.melscale_fbanks(257, 0.0, 4000.0, 40, 8000)"
USER 1000:1000
# No HEALTHCHECK: the coordinator hears each worker's signs of life, and gives a silent worker's work to another.
ENTRYPOINT ["python", "-m", "workers.audio_worker"]
