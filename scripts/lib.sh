#!/usr/bin/env bash
# Shell functions that the Makefile and the scripts share.
#
# usage: scripts/lib.sh FUNCTION [ARGUMENT...]   run one function; exits with its status
#        . scripts/lib.sh                        define them all
#
# A missing optional toolchain is a reason to skip on a developer's machine and an error if CI=true.

LIB_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

# skip SUBJECT REMEDY: report that SUBJECT was skipped, and the REMEDY. Fails if CI=true.
skip() {
    echo "SKIPPED: $1 ($2)" >&2
    [ "${CI:-}" != true ]
}

# have_node: succeed if Node 20.11 or later and npm are on the PATH. Otherwise return 1 (skip), or 2 if CI=true (an error).
have_node() {
    node -e 'const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 20 || (a === 20 && b >= 11) ? 0 : 1)' \
        2>/dev/null && npm --version >/dev/null 2>&1 && return 0
    echo "the Node package needs Node 20.11 or later and npm on the PATH" >&2
    [ "${CI:-}" != true ] || return 2
    return 1
}

# if_node SUBJECT COMMAND...: run COMMAND if have_node, otherwise report that SUBJECT was skipped. Fails if CI=true and Node is missing.
if_node() {
    local what=$1
    shift
    if have_node; then "$@"; else skip "$what" 'install Node 20.11 or later with npm'; fi
}

# need_python PYTHON: fail with a message unless PYTHON is Python 3.9 or later with venv.
need_python() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null || {
        echo "'$1' is not Python 3.9 or later: set PYTHON=/path/to/python3" >&2
        return 1
    }
    "$1" -c 'import venv, ensurepip' 2>/dev/null || {
        echo "'$1' has no venv module: install it (Debian: apt-get install python3-venv) or set PYTHON=..." >&2
        return 1
    }
}

# keep_output FILE COMMAND...: run COMMAND, print its output and keep it in FILE; returns its status.
keep_output() {
    local file=$1 status
    shift
    # The descriptors 3 and 4 carry make's job server.
    unset MAKEFLAGS MFLAGS CARGO_MAKEFLAGS
    { { ("$@") 2>&1; echo $? >&3; } | tee "$file" >&4; } 3>"$file.status" 4>&1
    status=$(cat "$file.status")
    rm -f "$file.status"
    return "$status"
}

# with_swift COMMAND...: run COMMAND with Swift 6: directly if `swift` is on the PATH, otherwise in the root folder that
# scripts/swift-toolchain installs, with the project mounted at the same path. COMMAND replaces the shell. Without arguments:
# succeed if Swift 6 is available.
with_swift() {
    if swift --version 2>/dev/null | grep -Eq 'Swift version ([6-9]|[1-9][0-9])\.'; then
        [ $# = 0 ] || exec "$@"
        return 0
    fi
    local tools=$LIB_ROOT/scripts/swift-toolchain folder folders
    "$tools" installed || { echo "Swift 6 is missing: neither on the PATH nor installed by 'make swift-toolchain'" >&2; return 1; }
    [ "$(id -u)" = 0 ] || { echo "the Swift of 'make swift-toolchain' needs root" >&2; return 1; }
    [ $# -gt 0 ] || return 0

    # The mounts are in a separate mount namespace, which ends with the command.
    folders=("$LIB_ROOT" "$(pwd -P)" /tmp)
    for folder in "$(readlink -m "$LIB_ROOT/target")" ${CARGO_TARGET_DIR:+"$(readlink -m "$CARGO_TARGET_DIR")"} \
        ${ACTPASS_SWIFT_ALSO:+"$ACTPASS_SWIFT_ALSO"}; do
        [ -d "$folder" ] && folders+=("$folder")
    done
    exec unshare --mount --propagation private bash -euo pipefail -c '
        root=$1 into=$2 count=$3
        shift 3
        mount -t proc proc "$root/proc"
        mount --rbind /dev "$root/dev"
        for folder in "${@:1:count}"; do
            mkdir -p "$root$folder"
            mountpoint -q "$root$folder" || mount --rbind "$folder" "$root$folder"
        done
        shift "$count"
        export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root
        exec chroot "$root" sh -c '\''cd "$1" && shift && exec "$@"'\'' sh "$into" "$@"
    ' with_swift "$("$tools" root)" "$(pwd -P)" "${#folders[@]}" "${folders[@]}" "$@"
}

[ "${BASH_SOURCE[0]}" != "$0" ] || "$@"
