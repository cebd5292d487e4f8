#!/usr/bin/env bash
# Runs a command in a machine on which nothing is installed but what README.md names: a root of
# Debian's own packages, and in it a fresh clone of this repository (its last commit).
#
#     tools/bare_root.sh [OPTION]... [--] COMMAND [ARGUMENT]...
#
#   --suite NAME    the release of Debian or Ubuntu; bookworm
#   --mirror URL    where its packages are, if not where this machine's or the release's own are
#   --keyring FILE  who signs them, if this machine's apt does not know (ubuntu-archive-keyring.gpg)
#   --cache FOLDER  of this machine's home, which the root shares, as .cache/uv: for downloads,
#                   never for programs that the command should have installed; can be given again
#
# The root is a folder that mmdebstrap fills, entered by pivot_root in mount and PID namespaces of
# its own. It shares the kernel, its cgroups and the network, of which it changes nothing; /dev, /tmp
# and /run are its own. All mounts and processes end with this script, however that ends, and the
# folder goes too, unless it is killed by SIGKILL. Of the machine it knows how packages are fetched
# (proxies, mirrors and certificates, of the environment and of apt, pip, uv and Go), nothing else.
# Root is needed. Exit code: the command's.
set -euo pipefail

say() { printf 'bare root: %s\n' "$*" >&2; }
fail() { say "$*"; exit 2; }

# What README.md says that a fresh machine must have; and apt, which Ubuntu's minbase lacks.
included=apt,git,make,python3
# Variables that say how packages are fetched; nothing else of the environment goes in.
fetching='^(PIP_|UV_|GOPROXY=|GOSUMDB=|GONOSUMDB=|GOPRIVATE=|GOFLAGS=|GOTOOLCHAIN=|SSL_CERT_|REQUESTS_CA_BUNDLE=|CURL_CA_BUNDLE=|(https?|no|all)_proxy=|(HTTPS?|NO|ALL)_PROXY=)'
told='^(CI|TERM|PYTEST_ARGS|NO_COLOR)='
place=/root/static-egress-gateway

# -- inside the namespaces

# The folder $1 becomes /, and everything of the machine's file system is gone.
enter() {
    local root=$1; shift
    mount --make-rprivate /
    mount --rbind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount -t sysfs sysfs "$root/sys"
    [ ! -d /sys/fs/cgroup ] || mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup"
    mount -t tmpfs -o mode=755 dev "$root/dev"
    local node
    for node in null zero full random urandom tty kmsg net/tun; do
        [ -e "/dev/$node" ] || continue
        mkdir -p "$(dirname "$root/dev/$node")"
        cp -a "/dev/$node" "$root/dev/$node"
    done
    mkdir "$root/dev/pts" "$root/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    ln -s /proc/self/fd/0 "$root/dev/stdin"
    ln -s /proc/self/fd/1 "$root/dev/stdout"
    ln -s /proc/self/fd/2 "$root/dev/stderr"
    mount -t tmpfs tmpfs "$root/dev/shm"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    local cache
    for cache in ${CACHES:-}; do
        mkdir -p "$HOME/$cache" "$root/root/$cache"
        mount --bind "$HOME/$cache" "$root/root/$cache"
    done
    mkdir "$root/.machine"
    cd "$root"
    pivot_root . .machine
    umount --lazy /.machine
    rmdir /.machine
    cd "$place"
    # This shell is process 1: it waits, so that nothing that is left by a process stays a zombie.
    local status=0
    env -i "${kept[@]}" HOME=/root USER=root LANG=C.UTF-8 \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@" || status=$?
    exit "$status"
}

mapfile -t kept < <(env | grep -E "$fetching|$told" || true)

if [ "${1:-}" = --inside ]; then
    shift
    trap 'exit 130' INT
    trap 'exit 143' TERM
    enter "$@"
fi

# -- on the machine

# Runs a command in namespaces of its own, and in the background, so that signals are heard meanwhile.
apart() {
    setpriv --pdeathsig KILL -- \
        unshare --mount --pid --fork --kill-child=KILL --mount-proc --propagation private -- \
        "$@" <&0 &
    running=$!
    local status=0
    wait "$running" || status=$?
    running=''
    return "$status"
}

# The namespaces die with their process 1, and all mounts with the namespaces.
clean() {
    trap '' INT TERM HUP
    if [ -n "$running" ]; then
        kill -KILL "$running" 2>/dev/null || true
        wait "$running" 2>/dev/null || true
    fi
    # What was killed may still be writing: its last processes die a moment after unshare.
    local tries=0
    until rm -rf --one-file-system "$work" 2>/dev/null; do
        tries=$((tries + 1))
        [ "$tries" -lt 100 ] || { say "$work cannot be removed"; break; }
        sleep 0.1
    done
}

# The machine's own sources of the suite; without any, mmdebstrap knows what it is of.
sources() {
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk -v s="$suite" '$2 == s || $2 == s "-updates" || $2 == s "-security" { print "deb " $0 }' |
        sort -u
}

# Makes the folder $root a root of the suite.
fill() {
    local given=() line components
    if [ -n "$mirror" ]; then given=("$mirror"); else mapfile -t given < <(sources 2>/dev/null || true); fi
    case ${given[*]:-} in *https://*) included+=,ca-certificates ;; esac # apt itself needs them then
    while IFS= read -r line; do options+=("--aptopt=$line"); done \
        < <(apt-config dump | grep -E '^Acquire::(http|https|Retries|Check)' || true)
    # Ubuntu keeps in universe some of what Debian has in main.
    case $suite in
        bookworm | trixie | forky | sid | stable | testing | unstable) components=main ;;
        *) components=main,universe ;;
    esac
    say "making a root of $suite with ${included//,/, }"
    # Nothing of it has to outlive a loss of power.
    apart mmdebstrap --mode=root --variant=minbase --components="$components" \
        --include="$included" --dpkgopt=force-unsafe-io "${options[@]}" \
        "$suite" "$root" "${given[@]}" >"$work/log" 2>&1 ||
        { tail -15 "$work/log" >&2; fail "mmdebstrap could not make a root of $suite"; }
}

# How packages are fetched, of this machine: certificates and the clients' own files.
tell() {
    local file own=/usr/local/share/ca-certificates
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    for file in /etc/pip.conf /etc/uv/uv.toml; do
        [ ! -e "$file" ] || install -D -m 600 "$file" "$root$file"
    done
    for file in .config/pip/pip.conf .pip/pip.conf .config/uv/uv.toml .config/go/env; do
        [ ! -e "$HOME/$file" ] || install -D -m 600 "$HOME/$file" "$root/root/$file"
    done
    if compgen -G "$own/*.crt" >/dev/null; then
        # ca-certificates takes them up when it is installed.
        install -D -m 644 -t "$root$own" "$own"/*.crt
        [ ! -x "$root/usr/sbin/update-ca-certificates" ] ||
            chroot "$root" update-ca-certificates >/dev/null 2>&1
    fi
}

# A fresh clone of the last commit. The checkout may be another user's than root's.
clone() {
    printf '[safe]\n\tdirectory = *\n' >"$work/gitconfig"
    export GIT_CONFIG_GLOBAL=$work/gitconfig
    [ -z "$(git -C "$repository" status --porcelain --untracked-files=no)" ] ||
        say "changes that are not committed are not in it"
    git clone --quiet --no-hardlinks "$repository" "$root$place"
}

main() {
    suite=bookworm mirror='' CACHES='' options=()
    while [ $# -gt 0 ]; do
        case $1 in
            --suite) suite=$2; shift 2 ;;
            --mirror) mirror=$2; shift 2 ;;
            --keyring) options+=("--keyring=$2"); shift 2 ;;
            --cache) CACHES="$CACHES $2"; shift 2 ;;
            --) shift; break ;;
            -*) sed -n '2,/^set/p' "$0" | sed -n 's/^# \{0,1\}//p' >&2; exit 2 ;;
            *) break ;;
        esac
    done
    export CACHES
    [ -e /proc/self/fd/0 ] || exec </dev/null # CI may close it
    [ $# -gt 0 ] || fail "no command given; try: $0 make demo"
    [ "$(id -u)" = 0 ] || fail "root is needed for mounts: sudo $0 …"
    repository=$(cd "$(dirname "$0")/.." && pwd)
    "$repository/tools/packages.py" ci || exit 2
    work=$(mktemp -d "${TMPDIR:-/var/tmp}/bare-root.XXXXXX")
    root=$work/root running=''
    trap clean EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    mkdir "$root"
    fill
    tell
    clone
    say "made in $SECONDS s: $*"
    apart "$0" --inside "$root" "$@"
}

# The shell has read all of this file before it waits for minutes.
main "$@"
exit
