#!/bin/sh
# Builds the wheel, installs it into an environment of its own, and tests that one:
# pytest (which gets the arguments), mypy, pyright, stubtest; and the READMEs' examples with the
# wheel alone. PYTHON names the interpreter.
set -eu
cd "$(dirname "$0")"
target=$PWD/../target
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "The Python package needs CPython 3.11 or later; PYTHON=… names one." >&2
    exit 1
}

tools=$target/python-tests
"$tools/bin/python" -c '' 2>/dev/null || "$python" -m venv --clear "$tools"
pip="$tools/bin/python -m pip --disable-pip-version-check --quiet"
$pip install --requirement tests/requirements.txt
wheels=$target/wheels
rm -rf "$wheels"
"$tools/bin/maturin" build --quiet --profile dev --locked --interpreter "$python" --out "$wheels"
$pip install --force-reinstall --no-deps "$wheels"/*.whl

"$tools/bin/ruff" check .
"$tools/bin/ruff" format --check .
"$tools/bin/python" tests/examples.py --print >"$target/readme_examples.py"
"$tools/bin/mypy" tests examples reference.py
"$tools/bin/mypy" --allow-redefinition "$target/readme_examples.py"
# Without Node.js, pyright would download it.
if command -v node >/dev/null 2>&1; then
    "$tools/bin/pyright" --pythonpath "$tools/bin/python" \
        examples reference.py "$target/readme_examples.py"
else
    echo "Node.js is not installed: pyright is left out" >&2
fi
"$tools/bin/python" -m mypy.stubtest --mypy-config-file pyproject.toml \
    --allowlist tests/stubtest-allow.txt diskimg
"$tools/bin/pytest" --quiet "$@"

# No Rust, no qemu-img, nothing but the wheel.
alone=$target/python-alone
"$python" -m venv --clear "$alone"
"$alone/bin/python" -m pip --disable-pip-version-check --quiet install --no-index "$wheels"/*.whl
env -i PATH="$alone/bin" "$alone/bin/python" tests/examples.py >/dev/null
env -i PATH="$alone/bin" "$alone/bin/diskimg" --version
