#!/bin/bash
# Builds the container image: two static binaries and nothing else. Needs a Rust toolchain and a
# Docker engine, and no network once the crates are there. What the image is made of is written
# beside the programs, as podwire-VERSION.spdx.json.
#
# ARCH=arm64 (or amd64) builds for another architecture, with the cross compiler of Debian; such an
# image is named podwire:VERSION-ARCH, so that it never stands in the place of this machine's own.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
source "$root/tests/cross.sh"
need cargo docker
# In bytes, decision 18: both programs travel to every node, and the plugin is read for every pod.
limit=$((12 * 1000 * 1000))
plugin_limit=$((2 * 1000 * 1000))
# PROFILE=dev builds in a fraction of the time, and large.
profile=${PROFILE:-release}

own=$(own_architecture)
ARCH=${ARCH:-$own}
cross "$ARCH"
[[ $ARCH == "$own" || $IMAGE != "podwire:$version" ]] || IMAGE+=-$ARCH
cd "$root"
RUSTFLAGS="-C target-feature=+crt-static" \
  cargo build --profile "$profile" --locked --target "$target" -p podwire -p podwire-agent \
  --no-default-features # no shell completions or manual pages: there is no shell
built=${CARGO_TARGET_DIR:-$root/target}/$target/${profile/dev/debug}

plugin=$(stat -c %s "$built/podwire")
size=$((plugin + $(stat -c %s "$built/podwire-agent")))
# within WHAT SIZE LIMIT: ends the script if a release is too large.
within() {
  [[ $profile != release ]] || (($2 <= $3)) || {
    echo "$1 would have $2 bytes, more than $3: find out what grew before the limit is raised" >&2
    exit 1
  }
}
within "the plugin" "$plugin" "$plugin_limit"
within "the image" "$size" "$limit"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp conf/Dockerfile "$work/"
for binary in podwire podwire-agent; do
  if [[ $profile == release ]]; then cp "$built/$binary" "$work/"; else "$STRIP" -o "$work/$binary" "$built/$binary"; fi
done
# Without buildx the engine's own builder does it just as well.
docker buildx version >/dev/null 2>&1 || export DOCKER_BUILDKIT=0
docker build --quiet --platform "linux/$ARCH" --tag "$IMAGE" "$work" >/dev/null 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
printf 'image %s, %s bytes, of which the plugin %s\n' "$IMAGE" "$size" "$plugin"
sbom=$built/podwire-$version.spdx.json
"$root/tests/sbom.sh" "$target" "$work" >"$sbom"
printf 'made of %s packages: %s\n' "$(grep -c '"versionInfo"' "$sbom")" "${sbom#"$root/"}"
