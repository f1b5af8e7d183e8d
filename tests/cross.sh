# shellcheck shell=bash
# Sourced by scripts that build for another architecture than this machine's.

# own_architecture: this machine's, as Debian, Docker and Go call it.
own_architecture() {
    case $(rustc -vV | sed -n 's/^host: //p') in
        x86_64-*) echo amd64 ;;
        aarch64-*) echo arm64 ;;
        *) echo "this machine is neither amd64 nor arm64" >&2; return 1 ;;
    esac
}

# cross ARCH: sets `target`, and names to cargo the linker and the C compiler of that architecture;
# adds the standard library to a toolchain that rustup looks after.
cross() {
    local host
    host=$(rustc -vV | sed -n 's/^host: //p')
    case $1 in
        amd64) target=x86_64-unknown-linux-gnu ;;
        arm64) target=aarch64-unknown-linux-gnu ;;
        *) echo "ARCH=$1 is not known: use amd64 or arm64" >&2; return 1 ;;
    esac
    STRIP=strip
    [[ $target != "$host" ]] || return 0
    local tools=${target/-unknown/}
    "$(dirname "${BASH_SOURCE[0]}")/tools.sh" "cross-$1"
    command -v "$tools-gcc" >/dev/null || {
        echo "$tools-gcc is missing: install the C compiler for $1 (in Debian: gcc-${tools%%-*}-linux-gnu)" >&2
        return 1
    }
    export "CARGO_TARGET_$(tr a-z- A-Z_ <<<"$target")_LINKER=$tools-gcc" "CC_${target//-/_}=$tools-gcc"
    # shellcheck disable=SC2034 # for the script that sources this
    STRIP=$tools-strip
    [[ ! -d $(rustc --print sysroot)/lib/rustlib/$target ]] || return 0
    command -v rustup >/dev/null || {
        echo "this Rust toolchain has no standard library for $target: install it" \
            "(with rustup: rustup target add $target)" >&2
        return 1
    }
    rustup --quiet target add "$target" || {
        echo "rustup cannot add the standard library for $target: see to a way to static.rust-lang.org" >&2
        return 1
    }
}
