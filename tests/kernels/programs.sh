#!/bin/bash
# Builds the release programs and the test programs, and makes a disk of them: programs.sh ARCH
# PACKAGE/PROGRAM... Prints the file. All are static, so they run whatever system is around them.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
arch=$1
shift
source "$root/tests/cross.sh"
cross "$arch" >&2
cd "$root"
export RUSTFLAGS="-C target-feature=+crt-static"
# The machines that emulate a processor are some twenty times as slow: what the compiler does once pays in each.
export CARGO_PROFILE_DEV_OPT_LEVEL=1
built=target/$target

say "building the release programs for $arch" >&2
cargo build --release --locked --target "$target" -p podwire -p podwire-agent -p podwire-lab \
    --bin podwire --bin podwire-agent --bin podwire-lab >&2

work=$(mktemp -d "$cache/programs.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/$built"/{release,debug}
# The sources as well: tests read golden files and manifests.
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents --target-directory "$work"
for program in podwire podwire-agent podwire-lab; do
    cp "$built/release/$program" "$work/$built/release/"
    # Where tests look for the programs of their own package.
    ln "$work/$built/release/$program" "$work/$built/debug/$program"
done
[[ $arch != amd64 || ! ${KUBE_PROXY:-} ]] || install -m 755 "$KUBE_PROXY" "$work/$built/release/kube-proxy"
touch "$work/tests.list"
for what; do
    package=${what%%/*} program=${what#*/}
    case $program in
        '*') which=() ;;
        podwire_agent) which=(--lib) ;;
        *) which=(--test "$program") ;;
    esac
    say "building the tests $what for $arch" >&2
    cargo test --no-run --locked --target "$target" --manifest-path "$package/Cargo.toml" "${which[@]}" \
        --all-features --message-format=json |
        sed -nE 's/.*"kind":\["(lib|bin|test)"\].*"name":"([^"]*)".*"test":true\},"features".*"executable":"([^"]*)".*/\2 \3/p' |
        while read -r name file; do
            echo "$package/$name ${file#"$root"/}" >>"$work/tests.list"
            mkdir -p "$work/$(dirname "${file#"$root"/}")"
            "${STRIP:-strip}" --strip-debug -o "$work/${file#"$root"/}" "$file"
        done
done
sort -u -o "$work/tests.list" "$work/tests.list"
disk "$work" "$cache/programs-$arch.squashfs"
echo "$cache/programs-$arch.squashfs"
