#!/usr/bin/env bash
# Everything worth measuring on one accelerator, in one call; JSON and a log per step under $OUT.
#
#     OUT=benchmarks/results/h100 JAXMARL=~/JaxMARL bash benchmarks/gpu.sh
#     QUICK=1 OUT=/tmp/try bash benchmarks/gpu.sh      # the same commands with tiny numbers: do they run?
#
# A step that fails or outruns its minutes does not stop the others. Without JAXMARL nothing is compared.
set -u
cd "$(dirname "$0")/.."
OUT=$(realpath -m "${OUT:-benchmarks/results/gpu}")
mkdir -p "$OUT"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" ME_IGM_CACHE="$OUT/.cache"
PYTHON=${PYTHON:-python3}
UNITS=smax/smacv2_5_units

if [ "${QUICK:-}" ]; then
  seeds="1 2" many=2 all=2 envs="4 8" iterations=1 rounds=1 small="replay.capacity=64 replay.batch=8"
  papers="--run.seeds 2 --replay.batch 8 --replay.capacity 64 --run.total-steps 4096"
else
  seeds="1 8 32 64" many=32 all=256 envs="64 512 4096" iterations=8 rounds=5 small=""
  papers="--run.seeds 64 --replay.batch 128 --replay.capacity 5000 --run.total-steps 500000"
fi

step() {  # name, minutes, command...
  local name=$1 minutes=$2
  shift 2
  echo "== $name: $*"
  timeout $((60 * minutes)) "$@" 2>&1 | tee "$OUT/$name.log" | tail -n 20
  [ "${PIPESTATUS[0]}" = 0 ] || echo "== $name FAILED (see $name.log)"
}
speed() {  # name, presets, seeds, settings...: rows of one speed.json
  local name=$1 presets=$2 count=$3
  shift 3
  step "$name" 6 "$PYTHON" benchmarks/speed.py --out "$OUT/speed.json" --envs $UNITS --presets $presets \
    --seeds $count --iterations $iterations --rounds $rounds --set $small "$@"
}

"$PYTHON" -c 'import json, jax; d = jax.devices()[0]; print(json.dumps({"device": d.device_kind, "jax": jax.__version__}))' \
  | tee "$OUT/device.json"
for n in $envs; do
  step "smax_step_$n" 3 "$PYTHON" benchmarks/smax_step.py --envs "$n" --rounds $rounds --out "$OUT/smax_step_$n.json"
done
if [ "${JAXMARL:-}" ]; then
  step vs_jaxmarl 8 "$PYTHON" benchmarks/vs_jaxmarl.py --jaxmarl "$JAXMARL" --presets qmix me_qmix --seeds $many \
    --their-seeds $many --iterations $iterations --rounds $rounds --out "$OUT/vs_jaxmarl.json"
fi
speed seeds me_qmix "$seeds"
speed bfloat16 me_qmix $many net.operands=bfloat16
speed more_environments me_qmix $many collect.envs=64 replay.capacity=4992
speed states me_qmix $all replay.store=states
# The papers' hyperparameters: whole episodes, batches of 128 of the last 5,000.
step papers 8 "$PYTHON" -c 'from me_igm_jax.cli import main; main()' train --preset me_qmix --env $UNITS \
  --collect.mode episodes --collect.envs 4 $papers --run.evals 2 --run.dir "$OUT/.run" --run.no-progress
[ -f "$OUT/.run/summary.json" ] && cp "$OUT/.run/summary.json" "$OUT/papers.json"
rm -rf "$OUT/.cache" "$OUT/.run"
ls "$OUT"
