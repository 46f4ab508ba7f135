#!/usr/bin/env bash
# Measures on one NVIDIA GPU, without a network, what perf/ has for it.
#   perf/gpu.sh FOLDER [SECONDS]
# Each part has SECONDS (480) at most and leaves its output in FOLDER/PART.txt. Parts that have theirs are skipped, so
# the command can be repeated until it exits with 0. A part that fails leaves PART.unfinished, and comes last the next
# time. To measure a part again, delete its file. Python is the one on PATH, with the extras gpu and torch; if its torch
# has no CUDA, OpenCLIP and transformers are left out. The other scripts of perf/ measure the host or simulated devices.
set -u
usage() { sed -n '2,7p' "$0" >&2; exit 2; }
[ $# -eq 1 ] || [ $# -eq 2 ] || usage
limit=${2:-480}
[[ $limit =~ ^[1-9][0-9]*$ ]] || { echo "SECONDS is $limit: expected a whole number from 1" >&2; exit 2; }
folder=$(mkdir -p "$1" && cd "$1" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2
# JAX would take most of the memory in advance, and torch needs some.
export XLA_PYTHON_CLIENT_PREALLOCATE=false HF_HUB_OFFLINE=1
visible=${CUDA_VISIBLE_DEVICES:-0}
export CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=${visible%%,*}  # one card, also where there are several
card=$(nvidia-smi -i "$CUDA_VISIBLE_DEVICES" --query-gpu=name,driver_version --format=csv,noheader) ||
  { echo "nvidia-smi failed: perf/gpu.sh needs an NVIDIA GPU and its driver" >&2; exit 2; }
jax=$(python -c 'import jax; jax.devices("gpu"); print(jax.__version__)') ||
  { echo "JAX finds no GPU: install the project with pip install -e '.[gpu,torch]'" >&2; exit 2; }
torch=$(python -c 'import torch; print(torch.__version__ if torch.cuda.is_available() else "")' 2>/dev/null)
machine="$card (card, driver); jax $jax; torch ${torch:-with CUDA is not installed}"
echo "$machine"

b32="towers --dtype bfloat16 --preset clip-b32 --images 512 --captions 512"
l14="towers --dtype bfloat16 --preset clip-l14 --images 64 --captions 128"
b16="towers --dtype bfloat16 --preset siglip-b16-224 --images 128 --captions 256"
if [ -n "$torch" ]; then alone=""; else alone="--ours_only"; fi
parts=(
  "towers_clip_b32 $b32 --train $alone"
  "towers_clip_b32_forward $b32 $alone"
  "towers_clip_l14 $l14 --train $alone"
  "towers_siglip_b16 $b16 --train $alone"
  "towers_clip_b32_cudnn $b32 --train --ours_only --attention cudnn"
  "towers_clip_l14_cudnn $l14 --train --ours_only --attention cudnn"
  "towers_siglip_b16_cudnn $b16 --train --ours_only --attention cudnn"
  "frozen objectives frozen"
  "pipeline pipeline --images 1024 --rounds 3 --threads 4 8 16"
  "loading loading clip-l14"
  "checkpoint checkpoint"
)
if [ -n "$torch" ]; then
  parts+=("step objectives step --batch 256" "step_mined objectives step --batch 256 --hard mined")
fi

problems=() child=
trap '[ -z "$child" ] || kill "$child"; wait; exit 143' TERM INT
attempt() {  # PART SCRIPT ARGUMENTS
  local file="$folder/$1" module=perf.$2 begin=$SECONDS status=0
  shift 2
  echo "$(basename "$file"): python -m $module $*"
  printf '%s\n$ python -m %s\n' "$machine" "$module $*" > "$file.unfinished"
  timeout --kill-after=10 "$limit" python -m "$module" "$@" >> "$file.unfinished" 2>&1 &
  child=$!
  wait "$child" || status=$?
  child=
  case "$status" in
    0) mv "$file.unfinished" "$file.txt"; echo "  done in $((SECONDS - begin)) s" ;;
    124 | 137) problems+=("$(basename "$file"): not done after $limit s: $file.unfinished") ;;
    *) problems+=("$(basename "$file"): exit code $status: $file.unfinished") ;;
  esac
}

new=() again=()
for part in "${parts[@]}"; do
  file="$folder/${part%% *}"
  if [ -e "$file.txt" ]; then echo "${part%% *}: done before"
  elif [ -e "$file.unfinished" ]; then again+=("$part")
  else new+=("$part"); fi
done
for part in "${new[@]}" "${again[@]}"; do attempt $part; done
[ ${#problems[@]} -eq 0 ] || { printf '%s\n' "${problems[@]}" >&2; exit 1; }
