"""Changes of the processes of `perf/batch.py`, put into their `sitecustomize.py`: crashes, hangs, slow answers."""

_CHANGE = """
import importlib.abc, importlib.util, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            change(module)
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""
CRASHES = (
    """
import ctypes, os, signal
NAME = "timechat.video.source"

def change(module):
    opened = module.VideoHandle.open
    def open_or_end(self):
        if self.name.endswith("crashes.mp4"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.name.endswith("hangs.mp4"):
            ctypes.PyDLL(None).sleep(100000)  # without the lock of the interpreter being released
        return opened(self)
    module.VideoHandle.open = open_or_end
"""
    + _CHANGE
)
"""Change of a process: videos of two names crash and hang in native code."""

SLOW = (
    """
import time
NAME = "timechat.pipeline.answering"

def change(module):
    answered = module.Answerer.answer_windows
    def answer_slowly(self, *arguments):
        time.sleep(2.0)
        return answered(self, *arguments)
    module.Answerer.answer_windows = answer_slowly
"""
    + _CHANGE
)
"""Change of a process: a piece takes two seconds longer."""
