"""`torchrun -m timechat.training RECIPE`: the same as `timechat train RECIPE`, in as many processes as wanted."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    # By name: the command stands above this floor, and nothing here is to know it.
    runpy.run_module("timechat", run_name="__main__", alter_sys=True)
