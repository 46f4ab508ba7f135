#!/usr/bin/env bash
# Builds launch/Dockerfile where no registry of images and no daemon can be reached, and runs the image as a user that
# it does not know. In place of python:3.11-slim stands Debian 12, which has Python 3.11, with the host's certificates.
# Needs root, and: apt-get install buildah debootstrap
set -eu
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf --one-file-system "$folder"' EXIT
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot BASE=localhost/python:3.11-slim
limits=(--ulimit "nproc=$(ulimit -u)" --ulimit "nofile=$(ulimit -n)")  # chroot cannot raise them
buildah() { command buildah --root "$folder/images" --runroot "$folder/state" "$@"; }

debootstrap --variant=minbase --include=python3-pip,ca-certificates bookworm "$folder/base" > "$folder/log"
rm "$folder"/base/usr/lib/python3*/EXTERNALLY-MANAGED  # Debian's refusal of pip, which the official image has not
cp /etc/ssl/certs/ca-certificates.crt "$folder/base/etc/ssl/certs/"
container=$(buildah from scratch)
buildah copy -q "$container" "$folder/base" / > "$folder/log"
buildah commit -q --rm "$container" $BASE > "$folder/log"

buildah build "${limits[@]}" --from $BASE --format docker -f launch/Dockerfile -t naturel_jax . > "$folder/log"
container=$(buildah from "${limits[@]}" --pull-never naturel_jax)
mkdir --mode 777 "$folder/work"
as_user() { buildah run --user 1000:1000 --volume "$folder/work:/work" "$container" -- "$@"; }
as_user id
as_user naturel-train --config clip:scenes --config.duration '2 steps' --config.eval.benchmarks naturel --workdir runs/tiny
ls -ln "$folder/work/runs/tiny"
