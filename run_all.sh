#!/usr/bin/env bash
# Sets up what is missing (.venv beside this file), then trains every paper's tables on a kind of data and prints them.
#
#   ./run_all.sh [digits|cifar|mnist|mini-imagenet|all|test] [options of `replicate PAPER`]
#
#   digits         every paper on data that comes with the installation (the default): a few minutes
#   cifar          every column on CIFAR-10 and CIFAR-100; needs --data DIR or REPLICATE_DATA (`replicate data get` downloads)
#   mnist          weight balancing's perceptrons; needs MNIST there
#   mini-imagenet  weight balancing on mini-ImageNet-LT; needs mini-imagenet-lt/ or ImageNet's training photographs there
#   all            all of these
#   test           the tests; options go to pytest
#
# Such as: ./run_all.sh cifar --data DIR --seeds 0 --time-limit 120      ./run_all.sh cifar --plan
# PYTHON names the interpreter (3.10 or newer), REPLICATE_VENV another place for the virtual environment.
# Paths that are given are meant from the folder that it is called in; store/ and results/ otherwise lie beside this file.
set -euo pipefail
unset CDPATH  # with it, cd may go elsewhere
here=$(dirname "${BASH_SOURCE[0]}")

fail() { echo "run_all.sh: $1" >&2; exit 2; }

what=digits
case "${1:-}" in
    digits | cifar | mnist | mini-imagenet | all | test) what=$1; shift ;;
    -h | --help) sed -n '2,/^set/p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \{0,1\}//'; exit 0 ;;
    -* | "") ;;
    *) fail "'$1' is unknown; allowed: digits, cifar, mnist, mini-imagenet, all, test" ;;
esac

venv=${REPLICATE_VENV:-$here/.venv}
# Without pip it is what was left when making it was stopped.
has_pip() { "$venv/bin/python" -m pip --version >/dev/null 2>&1; }
if ! has_pip; then
    candidates=(python3 python3.13 python3.12 python3.11 python3.10 python)
    [ -z "${PYTHON:-}" ] || candidates=("$PYTHON")
    for python in "${candidates[@]}"; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            found=yes
            break
        fi
    done
    [ "${found:-}" = yes ] || fail "no Python 3.10 or newer was found; install one, or name it: PYTHON=/path/to/python $0"
    echo "making $venv with $("$python" --version)" >&2
    "$python" -m venv "$venv" || fail "'$python -m venv' failed; on Debian and Ubuntu install python3-venv"
    has_pip || fail "$venv is damaged; delete it and run again"
fi

# Installs again only when what is to be installed has changed, or lies elsewhere.
install() {
    local wanted
    wanted=$( (cd "$here" && pwd && cat setup.cfg pyproject.toml constraints.txt) | cksum)
    if [ "$(cat "$venv/installed-$1" 2>/dev/null)" != "$wanted" ]; then
        echo "installing into $venv (torch is large: a few minutes at most)" >&2
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$here/constraints.txt" -e "$here$2"
        echo "$wanted" >"$venv/installed-run"
        echo "$wanted" >"$venv/installed-$1"
    fi
}

case $what in
    test)
        install test "[test]"
        python=$(cd "$venv/bin" && pwd)/python
        cd "$here"
        exec "$python" -m pytest "$@"
        ;;
    *)
        install run ""
        export REPLICATE_STORE=${REPLICATE_STORE:-$here/store}
        code=0
        # Cells that diverge (exit code 1) keep no other paper from its turn. By way of python, since the script's first line names
        # the place where the environment was made, and that may have been moved.
        replicate() {
            local paper=$1 ended=0
            shift
            "$venv/bin/python" "$venv/bin/replicate" "$paper" --results "$here/results" "$@" || ended=$?
            case $ended in
                0) ;;
                1) code=1 ;;
                *) exit "$ended" ;;
            esac
        }
        wants() { [ "$what" = "$1" ] || [ "$what" = all ]; }
        if wants digits; then
            replicate unified-bound --dataset digits --seeds 0-2 "$@"
            replicate wb --dataset digits --seeds 0-2 "$@"
            replicate lort --dataset digits --seeds 0-2 "$@"
        fi
        if wants cifar; then
            replicate unified-bound "$@"
            replicate wb --dataset cifar10-lt --dataset cifar100-lt --dataset cifar10 --dataset cifar100 "$@"
            replicate lort "$@"
        fi
        if wants mnist; then
            replicate wb --dataset mnist "$@"
        fi
        if wants mini-imagenet; then
            replicate wb --dataset mini-imagenet-lt "$@"
        fi
        exit "$code"
        ;;
esac
