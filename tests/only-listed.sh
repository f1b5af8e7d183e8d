#!/bin/bash
# Runs a command as on a machine that has nothing but a minimal Debian, a Rust toolchain and the
# packages of tools.txt: only-listed.sh COMMAND...
#
# In a mount namespace of its own, all other programs are hidden: those of packages that neither
# the essential ones nor the listed ones need, and those of no package. Needs root and overlayfs.
# Where the machine is not Debian, this says so and fails.
set -euo pipefail
[[ $(id -u) == 0 ]] || { echo "only-listed.sh makes mounts, which needs root: run it again as root" >&2; exit 1; }
command -v dpkg-query >/dev/null || { echo "only-listed.sh asks dpkg which programs belong to which package; this machine has none" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)

# The packages that stay, from the essential and the listed ones down all dependencies.
kept_packages() {
    # shellcheck disable=SC2016 # dpkg's fields, not the shell's
    dpkg-query -W -f '${Package}\t${Essential}\t${Priority}\t${Provides}\t${Pre-Depends}, ${Depends}\n' |
        awk -F '\t' -v listed="apt ca-certificates libc6 $("$here/tools.sh" --packages)" '
            function names(text, to,   parts, n, i) {
                gsub(/\([^)]*\)|:[a-z0-9]+| /, "", text)
                n = split(text, parts, /[,|]/)
                for (i = 1; i <= n; i++) if (parts[i] != "") to[parts[i]]
            }
            { needs[$1] = $5; names($4, provided)
              for (name in provided) providers[name] = providers[name] " " $1
              delete provided
              if ($2 == "yes" || $3 == "required") queue[++last] = $1 }
            END {
                n = split(listed, roots, " ")
                for (i = 1; i <= n; i++) queue[++last] = roots[i]
                for (i = 1; i <= last; i++) {
                    package = queue[i]
                    n = split(package providers[package], all, " ")
                    for (k = 2; k <= n; k++) queue[++last] = all[k]
                    if (package in kept || !(package in needs)) continue
                    kept[package]; print package
                    delete wanted; names(needs[package], wanted)
                    for (name in wanted) queue[++last] = name
                }
            }'
}

# Every file of the kept packages, under the names of a merged /usr.
kept_files() {
    kept_packages | while read -r package; do
        cat "/var/lib/dpkg/info/$package.list" "/var/lib/dpkg/info/$package":*.list 2>/dev/null || true
    done | sed -E 's#^/(bin|sbin|lib)/#/usr/\1/#' | sort -u
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# An overlay cannot lie on another one's upper layer.
unshare --mount --propagation private bash -euc '
    work=$1; shift
    mount -t tmpfs only-listed "$work"
    cat >"$work/kept"
    hidden=0
    for folder in /usr/bin /usr/sbin /usr/local/bin /usr/local/sbin /usr/lib/cni /opt/cni/bin; do
        [[ -d $folder && ! -L $folder ]] || continue
        mkdir -p "$work/$folder/upper" "$work/$folder/work"
        for program in "$folder"/*; do
            [[ -e $program ]] || continue
            # A name that leads to a program is an alternative, such as cc for gcc.
            grep -qxF "$program" "$work/kept" || grep -qxF "$(readlink -f "$program")" "$work/kept" || {
                mknod "$work/$folder/upper/${program##*/}" c 0 0
                hidden=$((hidden + 1))
            }
        done
        mount -t overlay -o "lowerdir=$folder,upperdir=$work/$folder/upper,workdir=$work/$folder/work" hidden "$folder"
    done
    echo "Hidden: $hidden programs that tests/tools.txt does not name."
    command -v cargo >/dev/null || { echo "The only cargo here is hidden, as one that Debian packaged is: use one by rustup." >&2; exit 1; }
    exec env PATH="$(dirname "$(command -v cargo)"):/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" "$@" </dev/null
' bash "$work" "$@" < <(kept_files)
