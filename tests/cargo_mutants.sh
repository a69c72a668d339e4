#!/usr/bin/env bash
# Changes the pure modules in every small way that cargo-mutants knows, and lists the changes that no test notices.
#
# tests/mutants/run.sh plants the faults that somebody thought of; this one finds what nobody tested. A change that survives is either a test
# that is missing or a change without consequence: the latter are kept, each with its reason, in tests/mutants/cargo_mutants_known.txt. A
# survivor that is not in that list fails the run.
#
#   tests/cargo_mutants.sh                          every change of every pure module; hours
#   tests/cargo_mutants.sh protocol                 of one package: protocol, consumers or orders
#   tests/cargo_mutants.sh --minutes 20 [PACKAGE]   no longer than about 20 minutes: one shard of as many as are needed, chosen by the date,
#                                                   so that consecutive days go through all of them
#   tests/cargo_mutants.sh --shard 3/40 [PACKAGE]   this shard, to repeat what a day found
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
version=27.1.0

minutes='' shard='' packages=()
while [ $# -gt 0 ]; do
  case $1 in
    --minutes) minutes=$2; shift 2 ;;
    --shard) shard=$2; shift 2 ;;
    protocol | consumers | orders) packages+=("$1"); shift ;;
    *) sed -n 's/^#   //p' "$0" >&2; exit 2 ;;
  esac
done
[ ${#packages[@]} -gt 0 ] || packages=(protocol orders consumers)
started=$SECONDS

bin=$root/.cache/cargo-mutants/bin/cargo-mutants
if [ "$("$bin" mutants --version 2> /dev/null)" != "cargo-mutants $version" ]; then
  # Its own target folder: nothing of ours serves it.
  env -u CARGO_TARGET_DIR cargo install cargo-mutants --quiet --locked --root "$root/.cache/cargo-mutants" --version "$version"
fi

# A copy of the tree that keeps its target folder, so that a later run builds no dependency again.
work=$root/target/cargo-mutants
tree=$work/tree
mkdir -p "$tree"
find "$tree" -mindepth 1 -maxdepth 1 ! -name target -exec rm -rf {} +
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do [ -e "$file" ] && printf '%s\0' "$file"; done \
  | tar --null -cf - -T - | tar -xf - -C "$tree"
# A run that was killed may have left a build of a changed file: each is newer than any build.
find "$tree" -path "$tree/target" -prune -o -name '*.rs' -exec touch {} +
unset CARGO_TARGET_DIR
cd "$tree"
# That a test fails is all there is to know: the smallest failing case is not.
export PROPTEST_MAX_SHRINK_ITERS=0

# Sets `select`, the modules of a package, and `tests`, what runs them.
choose() {
  case $1 in
    protocol)
      select=(--package orderbell-protocol --file protocol/src/session.rs --file 'protocol/src/session/*.rs')
      tests=(--lib --test session)
      ;;
    orders)
      select=(--package orderbell-orders --file src/orders/order.rs --file 'src/orders/order/*.rs')
      tests=(--lib)
      ;;
    consumers)
      # Without Kafka: the pure modules do not know it, and linking it takes longer than the tests.
      select=(--package orderbell-consumers --no-default-features)
      for module in watermark key_queues tracker start_offset poll_pacer; do select+=(--file "consumers/src/$module.rs"); done
      tests=(--lib --test dispatch --test scripts)
      ;;
  esac
}

if [ -n "$minutes" ] && [ -z "$shard" ]; then
  total=0
  for package in "${packages[@]}"; do
    choose "$package"
    total=$((total + $("$bin" mutants --list "${select[@]}" | wc -l)))
  done
  # Seconds of one change, building and testing, on two cores; the clock below ends what takes longer.
  per_mutant=8
  shards=$(((total * per_mutant + minutes * 60 - 1) / (minutes * 60)))
  shard=$(($(date +%s) / 86400 % shards))/$shards
fi
[ -z "$shard" ] || echo "shard $shard of ${packages[*]}"

# A change by its file, what it does, and the line that it is made in: line numbers move.
name() { # stdin: file:line:column: what it does
  while IFS=: read -r file line _ what; do
    printf '%s:%s @ %s\n' "$file" "$what" "$(sed -n "${line}{s/^ *//;p;}" "$root/$file")"
  done
}

rm -rf "$work"/out-*
for package in "${packages[@]}"; do
  choose "$package"
  out=$work/out-$package
  mkdir -p "$out"
  limit=()
  if [ -n "$minutes" ]; then
    left=$((minutes * 60 - (SECONDS - started)))
    if [ "$left" -le 0 ]; then echo "$package: no time is left"; continue; fi
    limit=(timeout --signal=INT --kill-after=30 "$left")
  fi
  status=0
  "${limit[@]}" "$bin" mutants "${select[@]}" ${shard:+--shard "$shard" --sharding round-robin} --in-place --output "$out" --no-times \
    --colors never --annotations none --minimum-test-timeout 30 --cap-lints true -- "${tests[@]}" || status=$?
  # 2: some were missed. 3: some took too long. 124: the time was over. Anything else says that nothing was found out.
  case $status in 0 | 2 | 3 | 124 | 130) ;; *) echo "cargo mutants failed with status $status"; exit 1 ;; esac
done

results() { cat "$work"/out-*/mutants.out/"$1".txt 2> /dev/null || true; }
known=$root/tests/mutants/cargo_mutants_known.txt
results missed | name | sort -u > "$work/missed.txt"
new=$(comm -23 "$work/missed.txt" <(grep -v -e "^#" -e "^$" "$known" | sort -u))
if [ -n "$new" ]; then
  printf '%s\n' "$new" | sed 's/^/not caught: /'
fi
count() { results "$1" | wc -l; }
echo "cargo mutants: $(count caught) caught, $(count timeout) timed out, $(count unviable) do not compile," \
  "$(count missed) not caught, $(printf '%s' "$new" | grep -c . || true) of them new"
[ -z "$new" ]
