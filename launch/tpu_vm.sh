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
case "$verb" in
  create)
    gcloud compute tpus tpu-vm create "$name" --zone "$zone" --accelerator-type "${1:?accelerator type}" --version v2-alpha-tpuv5-lite
    tar=$(mktemp --suffix .tar.gz); git archive --prefix naturel_jax/ -o "$tar" HEAD
    gcloud compute tpus tpu-vm scp "$tar" "$name":project.tar.gz --zone "$zone" --worker=all
    on_all "tar xzf project.tar.gz && cd naturel_jax && python3 -m venv .venv && .venv/bin/pip install -q -e '.[tpu]'" ;;
  run)
    # exec, without a pipe, so that SIGTERM reaches Python, which then saves.
    on_all "cd naturel_jax && exec .venv/bin/python -m naturel_jax.main --distributed $(printf '%q ' "$@")" ;;
  delete) gcloud compute tpus tpu-vm delete "$name" --zone "$zone" --quiet ;;
  *) usage ;;
esac
