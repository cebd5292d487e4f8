#!/bin/sh
# Builds the kernel that tests of kernel WireGuard run in, once per version of its source and of
# kernel.config, and prints its path. A User Mode Linux kernel is a program: it needs no machine,
# no KVM and no root, and it changes nothing here. A build that was interrupted goes on where it
# stopped. Exit code 2: it cannot be built on this machine.
set -eu
cd "$(dirname "$0")"

say() { printf '%s\n' "$*" >&2; }
cannot() { say "kernel tests: no kernel: $*"; exit 2; }

[ "$(uname -m)" = x86_64 ] || cannot "User Mode Linux needs x86_64, this is $(uname -m)"
package=linux-source-6.1
archive=/usr/src/$package.tar.xz

../packages.py kernel || cannot "its packages are missing"

version=$(dpkg-query -W -f '${Version}' "$package")
made_of=$(cat kernel.config build.sh | sha256sum | cut -c1-8)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/static-egress-gateway/uml-$version-$made_of
[ -x "$cache/linux" ] && { echo "$cache/linux"; exit 0; }

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
[ -x "$cache/linux" ] && { echo "$cache/linux"; exit 0; }
source=$cache/source
trap 'exit 130' INT TERM
say "building a kernel of $package $version (once; four minutes of two cores, 2 GB of disk)"
if [ ! -e "$source/.configured" ]; then
    rm -rf "$source"
    mkdir "$source"
    nice -n 19 tar -C "$source" --strip-components=1 -xf "$archive"
    # The kernel sets its processes' floating point state with PTRACE_SETREGSET, which refuses less
    # than all that the processor has (EFAULT; xstateregs_set in the host's
    # arch/x86/kernel/fpu/regset.c). This source has room for AVX-512 and not for AMX, with which it
    # is 11,008 bytes; since 6.13 it asks. More room does no harm, on a larger stack
    # (kernel.config): the host says how much it took.
    offsets=$source/arch/x86/um/user-offsets.c
    grep -q 'HOST_FP_SIZE, 2696)' "$offsets" || cannot "$package $version is not the source that build.sh knows"
    sed -i 's/HOST_FP_SIZE, 2696)/HOST_FP_SIZE, 12288)/' "$offsets"
    {
        make -C "$source" ARCH=um x86_64_defconfig
        (cd "$source" && ./scripts/kconfig/merge_config.sh -m .config "$OLDPWD/kernel.config")
        make -C "$source" ARCH=um olddefconfig
    } >"$cache/build.log" 2>&1 || cannot "configuring failed; see $cache/build.log"
    touch "$source/.configured"
fi

nice -n 19 make -C "$source" ARCH=um "-j$(nproc)" linux >>"$cache/build.log" 2>&1 &
building=$!
trap 'kill "$building"; exit 130' INT TERM
# Some 2,100 files; a line now and then says that it goes on.
while kill -0 "$building" 2>/dev/null; do
    sleep 20
    say "  $(grep -cE '^  (CC|AR|AS)' "$cache/build.log") files compiled"
done
wait "$building" || cannot "the build failed; the end of $cache/build.log says why"
strip -o "$cache/linux.new" "$source/linux"
mv "$cache/linux.new" "$cache/linux"
rm -rf "$source"
echo "$cache/linux"
