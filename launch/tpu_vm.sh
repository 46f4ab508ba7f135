#!/usr/bin/env bash
# Runs a config on every worker of a Cloud TPU VM slice. The workdir must be visible to all workers (gs://...).
#   launch/tpu_vm.sh create NAME ZONE v5litepod-16        # creates the slice and installs the project on all workers
#   launch/tpu_vm.sh run NAME ZONE --config configs/siglip_tp.py --workdir gs://BUCKET/siglip_tp --config.data.dir=gs://BUCKET/data
#   launch/tpu_vm.sh delete NAME ZONE
# If the slice is preempted, create it again and repeat the run command; the run continues.
set -eu
usage() { sed -n '2,6p' "$0" >&2; exit 2; }
[ $# -ge 3 ] || usage
verb=$1 name=$2 zone=$3; shift 3
on_all() { gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all --command "$1"; }
runtime() {  # https://cloud.google.com/tpu/docs/runtimes
  case "$1" in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v[234]-*) echo tpu-ubuntu2204-base ;;
    *) echo "accelerator type $1: expected v6e-N, v5p-N, v5litepod-N, v4-N, v3-N or v2-N" >&2; return 2 ;;
  esac
}
case "$verb" in
  create)
    [ $# -eq 1 ] || usage
    version=$(runtime "$1")
    gcloud compute tpus tpu-vm create "$name" --zone "$zone" --accelerator-type "$1" --version "$version"
    tar=$(mktemp --suffix .tar.gz)
    trap 'rm -f "$tar"' EXIT
    git archive --prefix naturel_jax/ -o "$tar" HEAD
    gcloud compute tpus tpu-vm scp "$tar" "$name":project.tar.gz --zone "$zone" --worker=all
    # The images' own Python is 3.10; the project needs 3.11. uv brings one.
    on_all "curl -LsSf https://astral.sh/uv/install.sh | sh && tar xzf project.tar.gz && cd naturel_jax \
&& ~/.local/bin/uv venv --clear --python 3.12 && ~/.local/bin/uv pip install -e '.[tpu,gcs]'" ;;
  run)
    # exec, without a pipe, so that SIGTERM reaches Python, which then saves.
    on_all "cd naturel_jax && exec .venv/bin/python -m naturel_jax.main --distributed $(printf '%q ' "$@")" ;;
  delete) gcloud compute tpus tpu-vm delete "$name" --zone "$zone" --quiet ;;
  *) usage ;;
esac
