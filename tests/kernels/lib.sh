# shellcheck shell=bash
# What the scripts beside this file share. Everything that is fetched or built for the machines is
# kept in target/kernels, so that a second run fetches only what has changed.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=$root/target/kernels
# own_mirror NAME: where this machine itself has the archive of that name from.
own_mirror() {
    sed -n 's/^URIs: *//p; s/^deb .*\(https\?:[^ ]*\).*/\1/p' /etc/apt/sources.list.d/* /etc/apt/sources.list \
        2>/dev/null | grep -m1 -E "/$1/?\$" || true
}
debian=${DEBIAN_MIRROR:-$(own_mirror debian)}
debian_security=${DEBIAN_SECURITY_MIRROR:-$(own_mirror debian-security)}
ubuntu=${UBUNTU_MIRROR:-http://archive.ubuntu.com/ubuntu}
ubuntu_ports=${UBUNTU_PORTS_MIRROR:-http://ports.ubuntu.com/ubuntu-ports}

say() { printf '%s  %s\n' "$(date +%H:%M:%S)" "$*"; }

fail() { echo "$*" >&2; exit 1; }

# use_apt DISTRIBUTION SUITE ARCH: from here on apt knows this suite and its updates and nothing else,
# and has folders of its own: this machine's packages, lists and settings play no part.
use_apt() {
    local folder=$cache/apt/$2-$3 keys=/usr/share/keyrings/debian-archive-keyring.gpg mirror
    [[ $1 == debian ]] || keys=$(ubuntu_keys)
    export APT_CONFIG=$folder/apt.conf
    [[ -r $keys ]] ||
        fail "$keys is missing, by which packages are checked: install debian-archive-keyring"
    [[ $1 != debian || $debian && $debian_security ]] ||
        fail "apt here names no archive of Debian: give DEBIAN_MIRROR and DEBIAN_SECURITY_MIRROR"
    mkdir -p "$folder"/{state/lists/partial,cache/archives/partial}
    : >"$folder/state/status"
    case $1-$2 in
        debian-*-backports) echo "deb [signed-by=$keys] $debian $2 main" ;;
        debian-*)
            echo "deb [signed-by=$keys] $debian $2 main"
            echo "deb [signed-by=$keys] $debian_security $2-security main"
            ;;
        ubuntu-*)
            mirror=$ubuntu
            [[ $3 == amd64 ]] || mirror=$ubuntu_ports
            printf "deb [signed-by=$keys] $mirror %s main\n" "$2" "$2-updates" "$2-security"
            ;;
    esac >"$folder/sources.list"
    cat >"$APT_CONFIG" <<CONF
Dir::State "$folder/state";
Dir::State::status "$folder/state/status";
Dir::Cache "$folder/cache";
Dir::Etc::sourcelist "$folder/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
APT::Architecture "$3";
APT::Architectures { "$3"; };
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT::Update::Post-Invoke "";
DPkg::Post-Invoke "";
Acquire::Languages "none";
CONF
    # Not more than once a day.
    [[ $(find "$folder/updated" -mmin -1440 2>/dev/null) ]] && return
    say "fetching the package lists of $1 $2 for $3"
    apt-get -q update >"$folder/log" 2>&1 || { tail -n 5 "$folder/log" >&2; return 1; }
    touch "$folder/updated"
}

# ubuntu_keys: Ubuntu's keys, as Debian signs them.
ubuntu_keys() {
    local keys=$cache/ubuntu/usr/share/keyrings/ubuntu-archive-keyring.gpg
    [[ -e $keys ]] || {
        use_apt debian trixie amd64 >&2
        mkdir -p "$cache/ubuntu"
        (cd "$cache/ubuntu" && apt-get -q download ubuntu-keyring >"$cache/apt.log" 2>&1) ||
            fail "Ubuntu's keys cannot be downloaded: $(tail -n1 "$cache/apt.log")"
        unpack "$cache/ubuntu" "$cache"/ubuntu/*.deb
    }
    echo "$keys"
}

# unpack FOLDER PACKAGE-FILE...: as dpkg would, without running anything of it.
unpack() {
    local folder=$1 package
    shift
    for package; do
        dpkg-deb --fsys-tarfile "$package" | tar --extract --directory "$folder" --keep-directory-symlink
    done
}

# disk FOLDER FILE: a file system that a machine can mount, whole or not at all.
disk() {
    mksquashfs "$1" "$2.new" -noappend -no-progress -quiet -noI -noD -noF -noX
    mv "$2.new" "$2"
}
