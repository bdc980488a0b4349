# Common settings and installation functions, sourced by the other scripts of this directory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CARGO_TERM_COLOR=never
export PIP_DISABLE_PIP_VERSION_CHECK=1
target=${CARGO_TARGET_DIR:-target}

step() { printf '\n== %s (after %d s)\n' "$*" "$SECONDS"; }

# have COMMAND: succeeds if the command exists. Debian has some in /usr/sbin, which is only in the PATH of root.
have() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ]; }

# packages NAME ...: installs Debian or Ubuntu packages.
packages() {
    local sudo=
    if [ "$(id -u)" != 0 ]; then sudo=sudo; fi
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq "$@" >/dev/null
}

need_npm() { have npm || packages nodejs npm; }
need_venv() { python3 -c 'import ensurepip' 2>/dev/null || packages python3-venv; }

# tool NAME: installs a cargo subcommand, unoptimized: it builds three times as fast and runs only for seconds.
tool() {
    command -v "cargo-$1" >/dev/null || cargo install --quiet --locked --debug "cargo-$1"
}

# gateway: builds the gateway and guardrail examples in release mode, once for all steps that need them.
gateway() {
    cargo build --release --example gateway --example guardrail
    gateway=$target/release/examples/gateway
    guardrail=$target/release/examples/guardrail
}

# run_parts ALL -- [PART ...]: calls the given functions, or all of them.
run_parts() {
    local all=() part
    while [ "$1" != -- ]; do all+=("$1"); shift; done
    shift
    for part in "$@"; do
        if [[ " ${all[*]} " != *" $part "* ]]; then
            echo "no such part: $part (parts: ${all[*]})" >&2
            exit 2
        fi
    done
    if [ $# -eq 0 ]; then set -- "${all[@]}"; fi
    for part in "$@"; do
        step "$part"
        "$part"
    done
    step "done: $*"
}
