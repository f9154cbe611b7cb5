# The environment of requirements.lock, for Docker and, through `container:` in the workflow, for Apptainer:
#
#     docker build -t consistency-models-suite:0.1.0 .
#     docker run --gpus all -v "$PWD:/work" -w /work consistency-models-suite:0.1.0 snakemake --cores all all_tables
#
# `snakemake --sdm apptainer` takes the image from Docker on the same machine. Elsewhere, copy it as a file and name that:
#
#     apptainer build cm.sif docker-daemon:consistency-models-suite:0.1.0
#     snakemake --sdm apptainer all_tables --config container=cm.sif
FROM python:3.11.14-slim-bookworm

RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ git \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/cm
COPY requirements.lock .
RUN pip install --no-cache-dir -r requirements.lock
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation .
