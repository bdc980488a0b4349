# Sourced by the scripts beside it: the settings they share, and what they install on a machine that lacks it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CARGO_TERM_COLOR=never
export PIP_DISABLE_PIP_VERSION_CHECK=1
target=${CARGO_TARGET_DIR:-target}

step() { printf '\n== %s (after %d s)\n' "$*" "$SECONDS"; }

# have COMMAND: is it there? Debian keeps some in a directory that only the administrator's PATH names.
have() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ]; }

# packages NAME ...: installs packages of Debian or Ubuntu.
packages() {
    local sudo=
    if [ "$(id -u)" != 0 ]; then sudo=sudo; fi
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq "$@" >/dev/null
}

need_npm() { have npm || packages nodejs npm; }
need_venv() { python3 -c 'import ensurepip' 2>/dev/null || packages python3-venv; }

# tool NAME: installs a cargo subcommand. Without optimisation: it builds in a third of the time and runs for seconds.
tool() {
    command -v "cargo-$1" >/dev/null || cargo install --quiet --locked --debug "cargo-$1"
}

# gateway: builds the gateway and guardrail examples as users build them, once for all steps that need them.
gateway() {
    cargo build --release --example gateway --example guardrail
    gateway=$target/release/examples/gateway
    guardrail=$target/release/examples/guardrail
}

# run_parts ALL -- [PART ...]: calls the functions that are named, or all of them.
run_parts() {
    local all=() part
    while [ "$1" != -- ]; do all+=("$1"); shift; done
    shift
    for part in "$@"; do
        if [[ " ${all[*]} " != *" $part "* ]]; then
            echo "no such part: $part (there are: ${all[*]})" >&2
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
