#!/usr/bin/env bash
# Plants one fault after another and sees the named test catch it. A patch says in its first lines how it is tested and what must catch it:
#
#   # package: orderbell-consumers
#   # test: --test group                      (arguments for cargo test)
#   # caught-by: a_panic_is_retried           (part of the name of a test that must fail)
#
# or, where it is not Rust:
#
#   # run: node --test protocol/js/test/
#   # caught-by: the chain                    (part of a line of a failed test)
#
# Each command runs once without a fault first: a test that fails anyway proves nothing. A fault that does not apply exactly (no fuzz), does not
# build, that no test catches, or that another test than the named one catches, fails the run.
#
# Two processes go side by side, each with its own copy of the tree: one has the faults that scenarios catch, which take longest to build and to
# run, the other all others.
#
#   tests/mutants/run.sh --check        only sees that each still applies and says what catches it; takes a second
#   tests/mutants/run.sh NAME...        only these
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD

field() { sed -n "s/^# $2: //p" "$1" | head -n 1; }

if [ $# = 0 ]; then
  ours=() others=()
  for patch in "$root"/tests/mutants/*.patch; do
    if [[ "$(field "$patch" test)" == *"--test e2e"* ]]; then ours+=("$(basename "$patch" .patch)"); else others+=("$(basename "$patch" .patch)"); fi
  done
  mkdir -p target/mutants
  ORDERBELL_MUTANTS_DIR=target/mutants/root tests/mutants/run.sh "${ours[@]}" > target/mutants/root.txt 2>&1 &
  failed=0
  ORDERBELL_MUTANTS_DIR=target/mutants/others tests/mutants/run.sh "${others[@]}" || failed=1
  wait $! || failed=1
  cat target/mutants/root.txt
  exit "$failed"
fi

# Outside the tree that people search: a second copy would double every hit.
work=$root/${ORDERBELL_MUTANTS_DIR:-target/mutants/named}
tree=$work/tree
# A check does not disturb a run.
[ "$1" != --check ] || tree=$root/target/mutants/check
rm -rf "$tree"; mkdir -p "$tree"
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do [ -e "$file" ] && printf '%s\0' "$file"; done \
  | tar --null -cf - -T - | tar -xf - -C "$tree"

apply() { patch --quiet --fuzz=0 --no-backup-if-mismatch -p1 "$@"; }

patches=()
if [ "$1" = --check ]; then patches=("$root"/tests/mutants/*.patch); else
  for name in "$@"; do patches+=("$root/tests/mutants/$name.patch"); done
fi
stale=0
for patch in "${patches[@]}"; do
  by=$(field "$patch" caught-by)
  if [ -z "$by" ]; then echo "mutant $(basename "$patch" .patch) does not say what catches it"; stale=$((stale + 1));
  elif ! grep -rqF --include='*.rs' --include='*.js' --exclude-dir=vendor -- "$by" "$tree"; then
    echo "mutant $(basename "$patch" .patch): there is no test named $by"; stale=$((stale + 1))
  fi
  (cd "$tree" && apply --dry-run < "$patch" > /dev/null) && continue
  echo "mutant $(basename "$patch" .patch) no longer applies: the code it changes has changed"; stale=$((stale + 1))
done
[ "$stale" = 0 ]
if [ "$1" = --check ]; then exit; fi

# Dependencies that are built serve here, too; what is built of mutants stays apart. Linked is only what is never written in place: cargo does
# write its fingerprints so, and one that two target folders share makes a build that is old look fresh.
export CARGO_TARGET_DIR=$work/build ORDERBELL_KAFKA_LIBS=$root/.cache/kafka/libs
rm -rf "$CARGO_TARGET_DIR"; mkdir -p "$CARGO_TARGET_DIR/debug"
if [ -d "$root/target/debug/deps" ]; then
  cp -al "$root/target/debug/deps" "$CARGO_TARGET_DIR/debug"
  find "$CARGO_TARGET_DIR/debug/deps" -name '*.d' -delete
  cp -a "$root"/target/debug/deps/*.d "$CARGO_TARGET_DIR/debug/deps"
  cp -a "$root/target/debug/.fingerprint" "$root/target/debug/build" "$CARGO_TARGET_DIR/debug"
  rm -rf "$CARGO_TARGET_DIR"/debug/.fingerprint/orderbell*
fi
cd "$tree"
# Every run tries the same cases: a fault that is caught today is caught tomorrow.
export PROPTEST_RNG_SEED=1

# Runs what a patch names; its output is in $tree/test.txt.
tests() { # package, test arguments, other command
  if [ -n "$3" ]; then
    # shellcheck disable=SC2086 # the command is words
    timeout 900 $3 > "$tree/test.txt" 2>&1
  else
    # shellcheck disable=SC2086 # the arguments are words
    timeout 900 cargo test --quiet --package "$1" $2 > "$tree/test.txt" 2>&1
  fi
}

failed=0
declare -A baseline=()
for patch in "${patches[@]}"; do
  command="$(field "$patch" package)|$(field "$patch" test)|$(field "$patch" run)"
  [ -z "${baseline[$command]-}" ] || continue
  baseline[$command]=1
  # Built first: the time limit is for the tests.
  # shellcheck disable=SC2046 # the arguments are words
  [ -n "$(field "$patch" run)" ] || cargo test --quiet --package "$(field "$patch" package)" $(field "$patch" test) --no-run
  if ! tests "$(field "$patch" package)" "$(field "$patch" test)" "$(field "$patch" run)"; then
    tail -n 60 "$tree/test.txt"; echo "without any fault, this fails: $command"; failed=$((failed + 1))
  fi
done
[ "$failed" = 0 ] || { echo "mutants: 0 passed, $failed failed"; exit 1; }
echo "baseline: ${#baseline[@]} commands pass without a fault"
# A fault often shows as something that never comes.
export ORDERBELL_PATIENCE_S=60

caught=0
for patch in "${patches[@]}"; do
  name=$(basename "$patch" .patch) package=$(field "$patch" package) test=$(field "$patch" test) run=$(field "$patch" run)
  by=$(field "$patch" caught-by)
  apply < "$patch"
  # shellcheck disable=SC2086 # the arguments are words
  if [ -z "$run" ] && ! cargo test --quiet --package "$package" $test --no-run > "$tree/build.txt" 2>&1; then
    cat "$tree/build.txt"; echo "mutant $name does not build"; failed=$((failed + 1))
  elif tests "$package" "$test" "$run"; then
    echo "mutant $name SURVIVED"; failed=$((failed + 1))
  elif grep -E '^(test .*FAILED|    [a-z0-9_:]+$|---- .* stdout ----|not ok|.*✖)' "$tree/test.txt" | grep -qF -- "$by"; then
    echo "mutant $name caught by $by"; caught=$((caught + 1))
  else
    tail -n 60 "$tree/test.txt"; echo "mutant $name: a test failed, but not the one that must catch it ($by)"; failed=$((failed + 1))
  fi
  apply -R < "$patch"
done
echo "mutants: $caught passed, $failed failed"
[ "$failed" = 0 ]
