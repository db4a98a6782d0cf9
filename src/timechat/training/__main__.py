"""`torchrun -m timechat.training RECIPE`: the same as `timechat train RECIPE`, in several processes."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    # By name, because this layer must not import the command line.
    runpy.run_module("timechat", run_name="__main__", alter_sys=True)
