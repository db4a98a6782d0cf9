"""The engine of vLLM in processes of its own, and the thread that talks to them."""

import asyncio
import atexit
import logging
import os
import queue
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from multiprocessing.util import Finalize
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

# Usage statistics leave the machine, and the log of a start has a hundred lines: the user may ask for both.
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
# Answers that are chosen by a processor of the second model runner were not run on a GPU yet.
os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")

import vllm
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.inputs.engine import embeds_input
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from timechat.backbones.timechat.vllm.adapters import Adapter, engine_arguments
from timechat.backbones.timechat.vllm.options import EngineOptions, check_options, runs_in_one_process
from timechat.backbones.timechat.vllm.owner import claim_engine
from timechat.backbones.timechat.vllm.requests import AnswerEngineState, EngineRequest, MixedPrompt, OutputDelta
from timechat.errors import EngineError
from timechat.files.system import num_cores

logger = logging.getLogger(__name__)

VERSION: str = vllm.__version__
_PROCESSORS = {False: "processor:AnswerLogitsProcessor", True: "processor_v2:AnswerLogitsProcessorV2"}
_MAX_RESTARTS = 3  # in a row, without an answer between them
_HEALTH_SECONDS = 0.25
_RESTART_SECONDS = 2.0
_END_SECONDS = 5.0  # in which the processes end by themselves, before they are killed
_STOP_SECONDS = 30.0
_EXIT_PRIORITY = 100  # before the finalizers of vLLM and multiprocessing, which have none or a lower one


@dataclass(eq=False)
class EngineCall:
    """Requests of one caller, and the pieces of their answers.

    Attributes:
        pieces: Place of a request with the next piece of its answer, or with the error that ended it.
        tasks: Futures of the requests.
    """

    pieces: "queue.SimpleQueue[tuple[int, OutputDelta | Exception]]" = field(default_factory=queue.SimpleQueue)
    tasks: list["Future[None]"] = field(default_factory=list)

    def cancel(self) -> None:
        """End the requests that are not answered yet; the engine forgets them."""
        for task in self.tasks:
            task.cancel()


class AnswerEngine:
    """Owns vLLM's engine: starts it, sends requests, notices its death, and starts it again."""

    def __init__(
        self,
        folder: Path,
        dtype: torch.dtype,
        options: EngineOptions,
        end_token_ids: Sequence[int],
        *,
        num_threads: int | None = None,
        adapters: Mapping[str, Adapter] = MappingProxyType({}),
    ) -> None:
        """Prepare the engine; it starts with `start`.

        Args:
            folder: Folder of the exported language model.
            dtype: Number format of the weights in memory.
            options: Arguments of `AsyncEngineArgs`.
            end_token_ids: Token ids that end an answer.
            num_threads: Number of threads of an engine on few cores without `OMP_NUM_THREADS`; None for all cores.
            adapters: LoRA adapters that requests may name.

        Raises:
            ValueError: An option cannot be given.
        """
        check_options(options, (each.name for each in fields(AsyncEngineArgs)))
        is_v2 = os.environ["VLLM_USE_V2_MODEL_RUNNER"] not in ("0", "")
        self._arguments: dict[str, Any] = {
            "model": str(folder),
            "tokenizer": str(folder),
            "skip_tokenizer_init": True,
            "dtype": str(dtype).removeprefix("torch."),
            "enable_prompt_embeds": True,
            "logits_processors": [f"{__package__}.{_PROCESSORS[is_v2]}"],
            "scheduling_policy": "priority",
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
            "seed": 0,
            **engine_arguments(adapters),
            **options,
        }
        self._adapters = {
            name: LoRARequest(name, number, str(adapter.path.absolute()))
            for number, (name, adapter) in enumerate(adapters.items(), start=1)
        }
        self._end_token_ids, self._num_threads = list(end_token_ids), num_threads
        self._llm: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started: Future[None] = Future()
        self._stopping: asyncio.Event | None = None
        self._num_tokens = self._num_running = self._num_restarts = self._num_failed = 0
        self._finalizer: Finalize | None = None
        self._thread = threading.Thread(target=self._run, name="timechat-vllm", daemon=True)

    def start(self) -> None:
        """Start the processes and answer a first request, which takes some seconds longer than the later ones.

        Raises:
            EngineError: vLLM cannot be started.
        """
        self._thread.start()
        atexit.register(self.stop)
        # A process of `multiprocessing`, such as that of `timechat batch`, ends its own processes before `atexit`.
        self._finalizer = Finalize(None, self.stop, exitpriority=_EXIT_PRIORITY)
        self._started.result()

    def stop(self) -> None:
        """End the processes; waiting requests fail."""
        atexit.unregister(self.stop)
        if self._finalizer is not None:
            self._finalizer.cancel()
        loop, stopping = self._loop, self._stopping
        if loop is not None and stopping is not None and self._thread.is_alive():
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(stopping.set)
            self._thread.join(_STOP_SECONDS)

    @property
    def is_alive(self) -> bool:
        """Whether the engine takes requests."""
        return self._llm is not None and not self._llm.errored

    @property
    def max_length(self) -> int:
        """Maximum number of tokens of prompt and answer."""
        return int(self._max_length)

    @property
    def state(self) -> AnswerEngineState:
        """Counters and requests."""
        return AnswerEngineState(self._num_tokens, self._num_running, self._num_restarts)

    def submit(self, requests: Sequence[EngineRequest]) -> EngineCall:
        """Send requests; the pieces of their answers come in the order in which they are written.

        Raises:
            EngineError: The engine is stopped, or is being started again.
        """
        call = EngineCall()
        if self._loop is None or not self._thread.is_alive():
            raise EngineError("the engine vllm is stopped")
        for place, request in enumerate(requests):
            put: Callable[[OutputDelta | Exception], None] = _put_at(call, place)
            call.tasks.append(asyncio.run_coroutine_threadsafe(self._answer(request, put), self._loop))
        return call

    # ------------------------------------------------------------------------------------------- in the thread

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            logger.exception("the thread of the engine vllm failed")
            if not self._started.done():
                self._started.set_exception(EngineError(f"vLLM cannot be started: {_reason(error)}"))
        finally:
            self._llm = None
            if not self._started.done():
                self._started.set_exception(EngineError("the engine vllm was stopped before it had started"))

    async def _serve(self) -> None:
        """Keep an engine running until the end."""
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        while not self._stopping.is_set():
            llm = None
            try:
                llm = await self._make()
                self._llm = llm
                if not self._started.done():
                    self._started.set_result(None)
                while not self._stopping.is_set() and not llm.errored:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._stopping.wait(), _HEALTH_SECONDS)
            except Exception as error:
                if not self._started.done():
                    self._started.set_exception(EngineError(f"vLLM cannot be started: {_reason(error)}"))
                    return
                logger.exception("the engine vllm cannot be started again")
            finally:
                self._llm = None
                if llm is not None:
                    llm.shutdown(timeout=_END_SECONDS)  # not in a thread: at the end of Python, none can be started
            # A signal to stop, such as Ctrl-C, may reach the processes of the engine before it reaches this thread.
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _RESTART_SECONDS)
            if not self._stopping.is_set():
                self._num_restarts += 1
                self._num_failed += 1
                logger.error("the engine vllm has ended unexpectedly and is started again")
                if self._num_failed > _MAX_RESTARTS:
                    logger.error("the engine vllm is given up: it has ended %d times in a row", self._num_failed)
                    await self._stopping.wait()

    async def _make(self) -> Any:
        """Start vLLM's processes, and let it answer once."""
        claim_engine()
        with ThreadPoolExecutor(
            1
        ) as threads:  # not the loop's own, which is joined by a new thread at the end of Python
            llm = await asyncio.get_running_loop().run_in_executor(threads, self._start_processes)
        try:
            for adapter in self._adapters.values():
                await llm.add_lora(adapter)
            config = llm.model_config
            self._max_length = config.max_model_len
            prompt = MixedPrompt([1, 0, 1], [True, False, True], torch.zeros(3, config.get_hidden_size()))
            params = SamplingParams(max_tokens=2, temperature=0.0, logprobs=0, detokenize=False)
            async for _ in llm.generate(_engine_input(prompt, ""), params, uuid.uuid4().hex):
                pass
        except BaseException:
            llm.shutdown(timeout=0.0)
            raise
        return llm

    def _start_processes(self) -> Any:
        arguments = self._arguments
        if not runs_in_one_process(arguments, has_gpu=torch.cuda.is_available(), num_cores=num_cores()):
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        # On a CPU, vLLM takes the executor of one process only if it finds this variable. The engine keeps a process of
        # its own, which inherits the variables.
        variables = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        if self._num_threads is not None and "OMP_NUM_THREADS" not in os.environ:
            variables["OMP_NUM_THREADS"] = str(self._num_threads)
        with _environment(variables):
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments, distributed_executor_backend="uni"))

    async def _answer(self, request: EngineRequest, put: Callable[[OutputDelta | Exception], None]) -> None:
        """Send one request and pass on the pieces of its answer, or its error."""
        self._num_running += 1
        try:
            await self._generate(request, put)
        except VLLMClientError as error:
            put(ValueError(f"vLLM refuses the request: {_reason(error)}"))
        except EngineError as error:
            put(error)
        except Exception as error:
            logger.warning("a request to the engine vllm failed: %s", _reason(error))
            put(EngineError("the engine that writes answers failed during this one; try again in a minute"))
        finally:
            self._num_running -= 1

    async def _generate(self, request: EngineRequest, put: Callable[[OutputDelta | Exception], None]) -> None:
        llm = self._llm
        if llm is None or llm.errored:
            if self._num_failed > _MAX_RESTARTS:
                raise EngineError("the engine that writes answers ends at each start and was given up; see the log")
            raise EngineError("the engine that writes answers is being started again; try again in a minute")
        params = SamplingParams(
            max_tokens=request.max_new_tokens,
            temperature=0.0,
            logprobs=None if request.is_scored else 0,
            prompt_logprobs=0 if request.is_scored else None,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA if request.is_streamed else RequestOutputKind.FINAL_ONLY,
            stop_token_ids=self._end_token_ids,
            extra_args=request.arguments,
        )
        prompt = _engine_input(request.prompt, request.client)
        adapter = self._adapters[request.adapter] if request.adapter else None
        answer = llm.generate(prompt, params, uuid.uuid4().hex, lora_request=adapter, priority=request.priority)
        async for output in answer:
            piece = _piece(output, request)
            self._num_tokens += 0 if request.is_scored else len(piece.token_ids)
            put(piece)
        self._num_failed = 0


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment for processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _put_at(call: EngineCall, place: int) -> Callable[[OutputDelta | Exception], None]:
    return lambda piece: call.pieces.put((place, piece))


def _engine_input(prompt: MixedPrompt, client: str) -> Any:
    return embeds_input(
        prompt.embeds,
        prompt_token_ids=prompt.token_ids,
        is_token_ids=prompt.is_token,
        cache_salt=client or None,
    )


def _piece(output: Any, request: EngineRequest) -> OutputDelta:
    written = output.outputs[0]
    token_ids = list(written.token_ids)
    logprobs = [step[token].logprob for token, step in zip(token_ids, written.logprobs or (), strict=False)]
    of_prompt = None
    if output.prompt_logprobs is not None:
        ids = request.prompt.token_ids
        of_prompt = [
            None if step is None else step[token].logprob
            for token, step in zip(ids, output.prompt_logprobs, strict=False)
        ]
    return OutputDelta(token_ids, logprobs, output.finished, output.num_cached_tokens or 0, of_prompt)


def _reason(error: BaseException) -> str:
    """Return the first line of an error, or its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
