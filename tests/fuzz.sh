#!/usr/bin/env bash
# Runs the fuzz targets of the envelopes and of posted bodies, and the balance against its naive model, for longer than the tests do: each round from another seed.
#
#   tests/fuzz.sh --minutes 30          all of them, for so long together
#   tests/fuzz.sh --minutes 10 canal    only those with this in their name
#
# A failure prints the smallest input that was found to fail, and its seed: ORDERBELL_FUZZ_SEED runs that round again. Add the record to
# tests/fuzz/corpus, and a test named after the bug to the module that had it.
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=10 filter=
while [ $# -gt 0 ]; do
  case $1 in
    --minutes) minutes=$2; shift 2 ;;
    -*) echo "unknown option $1" >&2; exit 2 ;;
    *) filter=$1; shift ;;
  esac
done
[[ $minutes =~ ^[1-9][0-9]*$ ]] || { echo "--minutes takes a whole number" >&2; exit 2; }

# Those that run rounds.
envelopes=(cargo test --quiet --package orderbell-orders --test fuzz --)
balance=(cargo test --quiet --package orderbell --lib -- each_record_that_may_be_a_paid_order)
bodies=(cargo test --quiet --package orderbell --lib -- ingest::http_fuzz::http_bodies)
names() { "$@" --list --format terse 2>/dev/null | sed -n 's/: test$//p' | { grep -v '::\|^each_' || true; } | { grep -F -- "$filter" || true; }; }

cargo test --quiet --package orderbell-orders --test fuzz --no-run
mapfile -t targets < <(names "${envelopes[@]}")
count=${#targets[@]}
with_balance=0
if [[ "balance" == *"$filter"* ]]; then with_balance=1; count=$((count + 1)); fi
with_bodies=0
if [[ "http_bodies" == *"$filter"* ]]; then with_bodies=1; count=$((count + 1)); fi
[ "$count" -gt 0 ] || { echo "no target has $filter in its name" >&2; exit 2; }
threads=$(nproc)
seconds=$((minutes * 60 / count))
[ "$seconds" -gt 0 ] || seconds=1

# As many targets at a time as there are cores, each for its share of their time.
if [ ${#targets[@]} -gt 0 ]; then
  ORDERBELL_FUZZ_SECONDS=$((seconds * threads)) "${envelopes[@]}" --exact --test-threads "$threads" "${targets[@]}"
fi
if [ "$with_bodies" = 1 ]; then
  ORDERBELL_FUZZ_SECONDS=$seconds "${bodies[@]}"
fi
if [ "$with_balance" = 1 ]; then
  ORDERBELL_FUZZ_SECONDS=$seconds "${balance[@]}"
fi
echo "no failure in $minutes minutes"
