#!/usr/bin/env bash
# Changes the pure modules that are named below in every small way that cargo-mutants knows, and lists the changes that no test notices.
#
# tests/mutants/run.sh plants the faults that somebody thought of; this one finds what nobody tested. A change that survives is either a test
# that is missing or a change without consequence: the latter are kept, each with its reason, in tests/mutants/cargo_mutants_known.txt. A
# survivor that is not in that list fails the run.
#
#   tests/cargo_mutants.sh                          every change of the modules below: some hours on two cores
#   tests/cargo_mutants.sh protocol                 of one package: protocol, consumers or orders
#   tests/cargo_mutants.sh --core [PACKAGE]         of the functions listed below: a fixed choice, the one of tests/run.sh
#   tests/cargo_mutants.sh --minutes 20 [PACKAGE]   no longer than 20 minutes, builds included: one shard of as many as are needed, chosen by date,
#                                                   so that consecutive days go through all of them; with --core there are no shards
#   tests/cargo_mutants.sh --shard 3/40 [PACKAGE]   this shard, to repeat what a day found
#
# The modules: of protocol, the machines of the server and of the client; of orders, the transitions and what becomes of an event before and after
# them (mapping, members, envelopes, times, amounts, notices, counting); of consumers, what decides on offsets and queues. Not the doctor of
# mappings, the reconciliation, the wire types, the readers of single formats, nor the shells.
#
# Why --core names functions: a shard chosen by the date turns red without a change, and the lines changed since some base are none where the
# base is not known, and any number where it is old. The same functions give the same answer every day, within a known time. They are those
# where a small change loses an order or doubles it: acknowledgement and redelivery, the watermark, the queues of the keys, the transitions.
# The property tests begin at the same seed every time. What the clock leaves untried is counted aloud and fails nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
version=27.1.0

minutes='' shard='' only_core='' packages=()
while [ $# -gt 0 ]; do
  case $1 in
    --minutes) minutes=$2; shift 2 ;;
    --shard) shard=$2; shift 2 ;;
    --core) only_core=yes; shift ;;
    protocol | consumers | orders) packages+=("$1"); shift ;;
    *) sed -n 's/^#   //p' "$0" >&2; exit 2 ;;
  esac
done
[ ${#packages[@]} -gt 0 ] || packages=(protocol consumers orders)
started=$SECONDS

bin=$root/.cache/cargo-mutants/bin/cargo-mutants
if [ "$("$bin" mutants --version 2> /dev/null)" != "cargo-mutants $version" ]; then
  # No registry of binaries has it. It only waits for the compiler and the tests, so it needs no optimization, which takes longest to build.
  # Its own target folder: nothing of ours serves it.
  env -u CARGO_TARGET_DIR CARGO_PROFILE_DEV_DEBUG=0 cargo install cargo-mutants --quiet --locked --debug --root "$root/.cache/cargo-mutants" \
    --version "$version"
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
# Every run tries the same cases: a change that is caught today is caught tomorrow.
export PROPTEST_RNG_SEED=1
# Nobody reads a backtrace here, and debug information is slow to link.
export CARGO_PROFILE_DEV_DEBUG=0 RUST_BACKTRACE=0

# Sets `select`, the modules of a package, `tests`, what runs them, and `core`, the functions of --core.
choose() {
  case $1 in
    protocol)
      select=(--package orderbell-protocol --file protocol/src/session.rs --file 'protocol/src/session/*.rs')
      tests=(--lib --test session)
      core=(Session::{ack,acked_by_poll,take_frame,page} Live::{credits,request_page,advance,rewind})
      # --core changes nothing here, and would build and run these tests for nothing.
      if [ -z "$only_core" ]; then
        select+=(--file protocol/src/client.rs --file 'protocol/src/client/*.rs')
        tests+=(--test client)
      fi
      ;;
    orders)
      select=(--package orderbell-orders --file src/orders/order.rs --file 'src/orders/order/*.rs')
      tests=(--lib)
      core=(Order::follow)
      if [ -z "$only_core" ]; then
        for module in counting notices mapping members envelopes event_time amount; do select+=(--file "src/orders/$module.rs"); done
        select+=(--file 'src/orders/envelopes/*.rs')
      fi
      ;;
    consumers)
      # Without Kafka: the pure modules do not know it, and linking it takes longer than the tests.
      select=(--package orderbell-consumers --no-default-features)
      for module in watermark key_queues tracker start_offset poll_pacer; do select+=(--file "consumers/src/$module.rs"); done
      tests=(--lib --test dispatch --test scripts)
      core=(Watermark::{register,complete,advance_to,checkpoint} 'KeyQueues<T, P>::'{push,next_batch,finish,back_off})
      ;;
  esac
  [ -z "$only_core" ] || select+=(--re "(replace|in) ($(IFS='|'; echo "${core[*]}"))( |\$)")
}

# Sets `total`, the number of changes that are to be tried.
sum_up() {
  total=0
  for package in "${packages[@]}"; do
    choose "$package"
    list=$("$bin" mutants --list "${select[@]}" ${shard:+--shard "$shard" --sharding round-robin})
    total=$((total + $(grep -c . <<< "$list" || true)))
    [ -n "$only_core" ] || continue
    for function in "${core[@]}"; do
      # A function that got another name would be left out in silence.
      grep -qE "(replace|in) $function( |\$)" <<< "$list" || { echo "$package: there is nothing to change in $function"; exit 1; }
    done
  done
}
sum_up
if [ -n "$minutes" ] && [ -z "$shard$only_core" ]; then
  # Seconds of one change, building and testing, on two cores; the clock below ends what takes longer.
  per_mutant=4
  shards=$(((total * per_mutant + minutes * 60 - 1) / (minutes * 60)))
  shard=$(($(date +%s) / 86400 % shards))/$shards
  sum_up
fi
[ -z "$shard" ] || echo "shard $shard of ${packages[*]}"

# A change by its file, what it does, and the line that it is made in: line numbers move.
name() { # stdin: file:line:column: what it does
  while IFS=: read -r file line _ what; do
    printf '%s:%s @ %s\n' "$file" "$what" "$(sed -n "${line}{s/^ *//;p;}" "$root/$file")"
  done
}

rm -rf "$work"/out-*
# A test has time in plenty: on a busy machine a change that no test notices would count as one that makes a test hang.
patience=120
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
    --colors never --annotations none --minimum-test-timeout "$patience" --cap-lints true -- "${tests[@]}" || status=$?
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
untried=$((total - $(count caught) - $(count timeout) - $(count unviable) - $(count missed)))
[ "$untried" = 0 ] || echo "WARNING: $untried of $total changes were NOT tried: the time was over"
[ -z "$new" ]
