#!/usr/bin/env bash
# Plants one fault after another and sees a test catch it. A patch says in its first lines which package and which test:
#
#   # package: orderbell-consumers
#   # test: --test group            (arguments for cargo test)
#
# or, where it is not Rust, how it is tested:
#
#   # run: node --test protocol/js/test/
#
# A mutant that does not apply, does not build, or that no test catches, fails the run.
#
#   tests/mutants/run.sh --check     only sees that each still applies, in a second
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
tree=$root/.cache/mutants
rm -rf "$tree"; mkdir -p "$tree"
git ls-files -z --cached --others --exclude-standard | tar --null -cf - -T - | tar -xf - -C "$tree"
stale=0
for patch in "$root"/tests/mutants/*.patch; do
  patch --quiet --dry-run --directory "$tree" -p1 < "$patch" > /dev/null && continue
  echo "mutant $(basename "$patch" .patch) no longer applies: the code it spoils has changed"; stale=$((stale + 1))
done
[ "$stale" = 0 ]
if [ "${1-}" = --check ]; then exit; fi
# What is built of other people's crates serves here, too; what is built of mutants stays apart.
export CARGO_TARGET_DIR=$root/target/mutants ORDERBELL_KAFKA_LIBS=$root/.cache/kafka/libs
rm -rf "$CARGO_TARGET_DIR"; mkdir -p "$CARGO_TARGET_DIR"
[ ! -d "$root/target/debug" ] || cp -al "$root/target/debug" "$CARGO_TARGET_DIR/debug"
cd "$tree"
# A fault often shows as something that never comes.
export ORDERBELL_PATIENCE_S=60
caught=0 survived=0
for patch in "$root"/tests/mutants/*.patch; do
  name=$(basename "$patch" .patch)
  package=$(sed -n 's/^# package: //p' "$patch" | head -n 1)
  test=$(sed -n 's/^# test: //p' "$patch" | head -n 1)
  run=$(sed -n 's/^# run: //p' "$patch" | head -n 1)
  patch --quiet -p1 < "$patch"
  if [ -n "$run" ]; then
    if timeout 300 $run > "$tree/test.txt" 2>&1; then
      echo "mutant $name SURVIVED"; survived=$((survived + 1))
    else
      echo "mutant $name caught by $run"; caught=$((caught + 1))
    fi
    patch --quiet -R -p1 < "$patch"
    continue
  fi
  # shellcheck disable=SC2086 # the arguments are words
  if ! cargo test --quiet --package "$package" $test --no-run > "$tree/build.txt" 2>&1; then
    cat "$tree/build.txt"; echo "mutant $name does not build"; survived=$((survived + 1))
  elif timeout 300 cargo test --quiet --package "$package" $test > "$tree/test.txt" 2>&1; then
    echo "mutant $name SURVIVED"; survived=$((survived + 1))
  else
    echo "mutant $name caught by $(grep -m 1 -oE '^    [a-z_:]+$' "$tree/test.txt" | tr -d ' ' || echo 'a test that hung')"; caught=$((caught + 1))
  fi
  patch --quiet -R -p1 < "$patch"
done
echo "mutants: $caught passed, $survived failed"
[ "$survived" = 0 ]
