#!/bin/bash
# Builds the container image: two static binaries and nothing else. Needs a Rust toolchain and a
# Docker engine, and no network once the crates are there.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
need cargo docker
limit=$((12 * 1000 * 1000))

target=$(rustc -vV | sed -n 's/^host: //p')
cd "$root"
RUSTFLAGS="-C target-feature=+crt-static" \
  cargo build --quiet --release --locked --target "$target" -p podwire -p podwire-agent
built=${CARGO_TARGET_DIR:-$root/target}/$target/release

size=$(($(stat -c %s "$built/podwire") + $(stat -c %s "$built/podwire-agent")))
((size <= limit)) || { echo "the image would have $size bytes, more than $limit" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp conf/Dockerfile "$built/podwire" "$built/podwire-agent" "$work/"
# Without buildx the engine's own builder does it just as well.
docker buildx version >/dev/null 2>&1 || export DOCKER_BUILDKIT=0
docker build --quiet --tag "$IMAGE" "$work" >/dev/null 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
printf 'image %s, %s bytes\n' "$IMAGE" "$size"
