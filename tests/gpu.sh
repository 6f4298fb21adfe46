#!/usr/bin/env bash
# Checks a build with the feature `cuda`, with or without a GPU, and times it beside PyTorch.
#
#   tests/gpu.sh [--networks ir_50,ir_101] [--batches 1,8,64,256] [--no-times]
#
# Everywhere: without a GPU in sight `--device cuda` is refused in one line and `--device auto` serves on the CPU.
# On a machine with a GPU: values against references, f32 to 1e-4 and bf16 to a cosine of 0.9999, two training steps against
# the CPU's in both precisions, then faces a second, and images a second in training.
# Ends with 0 when all holds, with 1 when something does not, and with 77 when there was no GPU to check.
#
# Environment, all optional:
#   VULTUS_BIN, GPU_CHECK   vultus and the example gpu_check, built elsewhere; otherwise engine/cuda/build builds them
#   TRAIN_CHECK             the example train_check, built elsewhere; where only the two others are named, it is left out
#   PYTHON                  a Python that may have PyTorch (default python3); without PyTorch its columns are left out
#   VULTUS_CUDA_LIBRARIES   folders of libcublas.so.13, libcurand.so.10 and libcudnn.so.9, joined by colons; otherwise those
#                           that engine/cuda/build got, or those of PyTorch, or what the system finds
#   VULTUS_GOLDEN           nets.safetensors with reference values; otherwise ../shared/golden/ where it is there
set -euo pipefail
cd "$(dirname "$0")/.."

networks=ir_50,ir_101 batches=1,8,64,256 times=1
while (($# > 0)); do
    case $1 in
        --networks) networks=${2:?--networks needs names}; shift ;;
        --batches) batches=${2:?--batches needs numbers}; shift ;;
        --no-times) times= ;;
        *) echo "tests/gpu.sh: unknown option $1" >&2; exit 2 ;;
    esac
    shift
done
IFS=, read -r -a names <<<"$networks"
python=${PYTHON:-python3}
target=${CARGO_TARGET_DIR:-target}
work=$(mktemp -d)
server=
stop() {
    if [[ -n $server ]]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
        server=
    fi
}
trap 'stop; rm -rf "$work"' EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }

if [[ -z ${VULTUS_BIN:-} || -z ${GPU_CHECK:-} ]]; then
    engine/cuda/build
    VULTUS_BIN=$target/release/vultus GPU_CHECK=$target/release/examples/gpu_check
    TRAIN_CHECK=$target/release/examples/train_check
fi
TRAIN_CHECK=${TRAIN_CHECK:-}
if [[ -z ${VULTUS_CUDA_LIBRARIES:-} && -r $target/cuda/environment ]]; then
    VULTUS_CUDA_LIBRARIES=$(sed -n "s/^export VULTUS_CUDA_LIBRARIES='\(.*\)'$/\1/p" "$target/cuda/environment")
fi
if [[ -z ${VULTUS_CUDA_LIBRARIES:-} ]]; then
    VULTUS_CUDA_LIBRARIES=$("$python" -c 'import glob, nvidia
print(":".join(sorted(d for root in nvidia.__path__ for d in glob.glob(root + "/*/lib"))))' 2>/dev/null) || true
fi
export LD_LIBRARY_PATH=${VULTUS_CUDA_LIBRARIES:-}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

# 1. Without a GPU in sight, which an empty list of visible devices makes of any machine.
refused() {
    local status=0
    CUDA_VISIBLE_DEVICES='' timeout 60 "$VULTUS_BIN" serve --data-dir "$work/$1" --listen 127.0.0.1:0 --device "$1" \
        >"$work/out" 2>"$work/err" || status=$?
    ((status == 1)) || fail "--device $1 without a GPU ended with $status instead of 1: $(cat "$work/err")"
    [[ $(wc -l <"$work/err") == 1 ]] || fail "--device $1 without a GPU said more than a line: $(cat "$work/err")"
    grep -q "device $1 cannot be used: " "$work/err" || fail "--device $1 without a GPU said: $(cat "$work/err")"
    cat "$work/err"
}
refused cuda
refused cuda:1
CUDA_VISIBLE_DEVICES='' "$VULTUS_BIN" serve --data-dir "$work/auto" --listen 127.0.0.1:0 --device auto \
    >"$work/out" 2>"$work/err" &
server=$!
for ((i = 0; i < 300; i++)); do
    if grep -q '^listening on ' "$work/out"; then break; fi
    kill -0 "$server" 2>/dev/null || fail "--device auto did not start: $(cat "$work/err")"
    sleep 0.1
done
url=$(sed -n 's/^listening on //p' "$work/out")
[[ -n $url ]] || fail "--device auto did not start within 30 s"
"$python" -c 'import sys, urllib.request
assert urllib.request.urlopen(sys.argv[1] + "/readyz", timeout=10).status == 200' "$url" || fail "$url/readyz"
[[ $(grep -c "no GPU can be used" "$work/err") == 1 ]] || fail "--device auto did not say why once: $(cat "$work/err")"
grep "no GPU can be used" "$work/err"
stop
echo "ok: without a GPU, cuda is refused and auto serves on the CPU"

# 2. The GPU.
status=0
"$GPU_CHECK" device cuda || status=$?
if ((status == 77)); then
    echo "skipped: no GPU here, so neither values nor speed were checked"
    exit 77
fi
((status == 0)) || fail "gpu_check device ended with $status"
golden=()
if [[ -n ${VULTUS_GOLDEN:-} ]]; then golden=(--golden "$VULTUS_GOLDEN"); fi
"$GPU_CHECK" values cuda "${golden[@]}" ir_18 ir_50 ir_101 ir_152 ir_se_50 || fail "values differ"
if [[ -n $TRAIN_CHECK ]]; then
    "$TRAIN_CHECK" steps cuda ir_18 mobilefacenet || fail "training differs"
else
    echo "left out: TRAIN_CHECK is not named, so training is not checked"
fi
if [[ -z $times ]]; then exit 0; fi

# 3. Faces a second, one engine after the other.
if command -v nvidia-smi >/dev/null; then nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || true; fi
"$GPU_CHECK" faces cuda --batches "$batches" "${names[@]}" >"$work/times"
if "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    "$python" engine/cuda/pytorch.py --batches "$batches" "${names[@]}" >>"$work/times"
else
    echo "left out: $python has no PyTorch that sees the GPU, so there is nothing to compare with"
fi
"$python" - "$work/times" <<'END'
import json, sys

rows = {}
for line in open(sys.argv[1]):
    row = json.loads(line)
    rows.setdefault((row["network"], row["engine"], row["precision"]), {})[row["batch"]] = row["faces_per_s"]
batches = sorted({batch for row in rows.values() for batch in row})
print("| network | engine | " + " | ".join(f"{batch}" for batch in batches) + " |")
print("|---|---|" + "---|" * len(batches))
for (network, engine, precision), row in rows.items():
    print(f"| {network} | {engine} {precision} | " + " | ".join(f"{row[b]:.0f}" if b in row else "" for b in batches) + " |")
END

# 4. Images a second in training.
if [[ -z $TRAIN_CHECK ]]; then exit 0; fi
"$TRAIN_CHECK" images cuda --batches 64,256 "${names[@]}" >"$work/training"
echo "| training | precision | batch | images/s |"
echo "|---|---|---|---|"
"$python" - "$work/training" <<'END'
import json, sys

for line in open(sys.argv[1]):
    row = json.loads(line)
    print(f"| {row['network']} | {row['precision']} | {row['batch']} | {row['images_per_s']:.0f} |")
END
