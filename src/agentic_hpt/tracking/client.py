"""MLflow as the driver sees it: a process beside it, asked over pipes. The driver never imports MLflow."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, cast

from agentic_hpt.config import shown
from agentic_hpt.errors import TrackerAway
from agentic_hpt.records import JsonObject, Trial
from agentic_hpt.tracking.encoding import trial_from_json

_GRACE = 0.5
_INFO_SECONDS = 2.0
_STOP_SECONDS = 10.0


class _WriterDied(TrackerAway):
    """The writer process ended without being asked to."""


class MlflowTracker:
    """Write behind through the writer process, and read rounds back."""

    def __init__(
        self,
        *,
        ledger_url: str,
        uid: str,
        study: str,
        tracking_uri: str,
        experiment: str,
        artifact_root: Path,
        log: Path,
    ) -> None:
        self._settings: JsonObject = {
            "ledger_url": ledger_url,
            "uid": uid,
            "study": study,
            "tracking_uri": tracking_uri,
            "experiment": experiment,
            "artifact_root": str(artifact_root),
        }
        self._log = log
        self._writer: subprocess.Popen[bytes] | None = None
        self._ended = asyncio.Event()
        self._launching = asyncio.Lock()
        self._asked: dict[int, asyncio.Future[JsonObject]] = {}
        self._numbers = itertools.count(1)
        self._run_id: str | None = None

    async def start(self) -> None:
        """Start the writer process; does not wait for it. A writer that can't be started is MLflow being away."""
        try:
            await self._launch()
        except TrackerAway:
            pass  # the next request tries again, and says why

    async def read_round(self, round_: int, expected: int, wait: float) -> list[Trial]:
        """Read a round's trials back, once `expected` of them are there.

        Raises `TrackerAway` after `wait` seconds, and at once when MLflow is away or refused a trial of the round.
        """
        request: JsonObject = {"op": "read_round", "round": round_, "expected": expected}
        answer = await self._persist(request, wait)
        if "trials" not in answer:
            raise TrackerAway(str(answer["away"]))
        return [trial_from_json(trial) for trial in cast(list[JsonObject], answer["trials"])]

    async def drain(self, wait: float) -> int:
        """Wait until everything is written, at most `wait` seconds; give how many entries are left (up to 1000).

        Gives 1 when the writer can't be asked: then something may be left.
        """
        try:
            return cast(int, (await self._persist({"op": "drain"}, wait))["left"])
        except TrackerAway:
            return 1

    async def info(self) -> JsonObject:
        """Give `tracking_uri` (secrets masked), `experiment`, `run_id`, and in `away` why MLflow isn't there, if so."""
        away: str | None = None
        try:
            answer = await self._ask({"op": "info"}, _INFO_SECONDS)
            self._run_id = cast("str | None", answer["run_id"]) or self._run_id
            away = cast("str | None", answer["away"])
        except TrackerAway as error:
            away = str(error)
        return {
            "tracking_uri": shown(str(self._settings["tracking_uri"])),
            "experiment": self._settings["experiment"],
            "run_id": self._run_id,
            "away": away,
        }

    async def close(self) -> None:
        """Let the writer finish for about ten seconds at most; one that needs longer ends by itself a little later."""
        writer = self._writer
        if writer is None:
            return
        try:
            await self._ask({"op": "stop", "seconds": _STOP_SECONDS}, _STOP_SECONDS)
            await asyncio.wait_for(self._ended.wait(), _STOP_SECONDS + _GRACE)
        except (TrackerAway, TimeoutError):
            pass
        _hang_up(writer)
        self._writer = None

    async def _persist(self, request: JsonObject, wait: float) -> JsonObject:
        """Ask; once more of a new writer when the old one dies meanwhile. Raises `TrackerAway`."""
        deadline = asyncio.get_running_loop().time() + wait
        try:
            return await self._ask({**request, "seconds": wait}, wait + _GRACE)
        except _WriterDied:
            await self._launch()
            left = max(0.0, deadline - asyncio.get_running_loop().time())
            return await self._ask({**request, "seconds": left}, left + _GRACE)

    async def _ask(self, request: JsonObject, seconds: float) -> JsonObject:
        number = next(self._numbers)
        answer: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            if self._writer is None or self._ended.is_set():
                raise _WriterDied("the MLflow writer is not running", f"see {self._log}")
            _send(self._writer, {**request, "id": number})
            return await asyncio.wait_for(answer, seconds)
        except TimeoutError:  # before OSError, which it is a kind of
            raise TrackerAway(f"the MLflow writer did not answer within {seconds:.0f} s", f"see {self._log}") from None
        except OSError:
            raise _WriterDied("the MLflow writer ended", f"see {self._log}") from None
        finally:
            del self._asked[number]

    def _command(self) -> Sequence[str]:
        # -P: a file named mlflow.py in the user's folder must not stand in for the library
        return (sys.executable, "-P", "-m", "agentic_hpt.mlflow_writer")

    async def _launch(self) -> None:
        """Start a writer unless one runs. In a thread: starting a process blocks, and the loop may be a server's."""
        async with self._launching:
            if self._writer is not None and not self._ended.is_set():
                return
            if self._writer is not None:
                _hang_up(self._writer)
            try:
                self._writer = await asyncio.to_thread(self._start_writer)
            except OSError as error:
                raise TrackerAway(f"the MLflow writer can't be started: {error}") from error
            self._ended = asyncio.Event()
            args = (self._writer, self._ended, asyncio.get_running_loop())
            threading.Thread(target=self._listen, args=args, daemon=True).start()

    def _start_writer(self) -> subprocess.Popen[bytes]:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            writer = subprocess.Popen(
                self._command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        _send(writer, self._settings)
        return writer

    def _listen(self, writer: subprocess.Popen[bytes], ended: asyncio.Event, loop: asyncio.AbstractEventLoop) -> None:
        """Hand answers to the loop until the writer ends. A thread, so that a writer may outlive the loop unharmed."""
        with cast(IO[bytes], writer.stdout) as answers:
            for line in answers:
                _call(loop, self._answered, json.loads(line))
        writer.wait()
        _call(loop, self._over, writer, ended)

    def _answered(self, answer: JsonObject) -> None:
        asked = self._asked.get(cast(int, answer.pop("id")))
        if asked is not None and not asked.done():
            asked.set_result(answer)

    def _over(self, writer: subprocess.Popen[bytes], ended: asyncio.Event) -> None:
        ended.set()
        if writer is self._writer:
            for asked in self._asked.values():
                if not asked.done():
                    asked.set_exception(_WriterDied("the MLflow writer ended", f"see {self._log}"))


def _send(writer: subprocess.Popen[bytes], line: JsonObject) -> None:
    pipe = cast(IO[bytes], writer.stdin)
    pipe.write(json.dumps(line).encode() + b"\n")
    pipe.flush()


def _hang_up(writer: subprocess.Popen[bytes]) -> None:
    try:
        cast(IO[bytes], writer.stdin).close()
    except OSError:
        pass


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: object) -> None:
    try:
        loop.call_soon_threadsafe(function, *args)
    except RuntimeError:
        pass  # the loop is closed: nobody waits for this any more
