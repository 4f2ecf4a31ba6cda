#!/bin/sh
# Installs the real MCP servers and clients that the tests drive, in this folder: node_modules, .venv (Python SDK 2.x)
# and .venv1 (Python SDK 1.x). Says nothing and changes nothing when all are as the lock files want them.
set -eu
cd "$(dirname "$0")"

fail() {
    echo "peers: $1" >&2
    exit 1
}

# What needs the network, three times: a mirror that fails for a moment is none of the tests' business.
persist() {
    "$@" >&2 && return
    sleep 5
    "$@" >&2 && return
    sleep 20
    "$@" >&2
}

want=$(cat package.json package-lock.json requirements.txt requirements1.txt | sha256sum | cut -d' ' -f1)
if [ -x .venv/bin/python ] && [ -x .venv1/bin/python ] && [ "$(cat node_modules/.peers 2>/dev/null)" = "$want" ]; then
    exit 0
fi

# Debian packages of what is missing on this machine.
missing=
command -v node >/dev/null || missing="$missing nodejs"
command -v npm >/dev/null || missing="$missing npm"
python3 -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3 python3-venv"
if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "missing:$missing. Install them (Debian, as root: apt-get install$missing) and try again."
    fi
    echo "peers: installing$missing" >&2
    apt-get update -q >&2
    # shellcheck disable=SC2086 # a list of package names
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing >&2
fi
# The conformance suite needs Node.js 22.
if [ "$(node -p 'process.versions.node.split(".")[0]')" -lt 22 ]; then
    echo "peers: Node.js $(node --version) is too old for the packages; installing a newer one in this folder" >&2
    persist npm install --prefix .node --no-save --no-package-lock --no-audit --no-fund --loglevel=error node@24.21.0
fi

echo "peers: installing the npm and Python packages of the lock files" >&2
persist npm ci --no-audit --no-fund --loglevel=error
for sdk in '' 1; do
    [ -x .venv$sdk/bin/python ] || python3 -m venv .venv$sdk
    persist .venv$sdk/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements$sdk.txt
done
echo "$want" >node_modules/.peers
