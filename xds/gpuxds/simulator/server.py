"""A fake GPU server: OpenAI-compatible HTTP around a replica whose steps take as long as on the real GPU.

Tokens are words of one letter; a prompt counts one token per four characters, as a rule of thumb has it, and
exactly `max_tokens` come back. A stream's first token is sent when it is made and later ones a few times a
second, since the control plane and Envoy see requests, not tokens.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from gpuxds.simulator.faults import Faults
from gpuxds.simulator.gpus import REQUEST_OVERHEAD_S, GpuType
from gpuxds.simulator.pages import Latencies, engine_page, gpu_page
from gpuxds.simulator.replica import Replica, Sequence, Step

MODEL = "fake/llama-3-8b"
CHUNK_S = 0.25
CHARS_PER_TOKEN = 4
DEFAULT_TOKENS = 16
BUSY_WINDOW_S = 1.0
MAX_BODY_BYTES = 16 * 1024 * 1024


class Ticket:
    """What a handler waits for."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.first = asyncio.Event()
        self.done = asyncio.Event()


@dataclass(eq=False, slots=True)
class FakeGpuServer:
    """One fake server on its own port."""

    name: str
    gpu: GpuType
    host: str = "127.0.0.1"
    port: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311
    faults: Faults = field(default_factory=Faults)
    replica: Replica = field(init=False)
    latencies: Latencies = field(default_factory=Latencies)
    tickets: dict[int, Ticket] = field(default_factory=dict)
    work: asyncio.Event = field(default_factory=asyncio.Event)
    healed: asyncio.Event = field(default_factory=asyncio.Event)
    busy_s: float = 0.0
    busy_since: float = 0.0
    busy: float = 0.0
    requests: int = 0
    most_at_once: int = 0
    """Most requests it had at once, running and waiting."""
    runner: web.AppRunner | None = None

    def __post_init__(self) -> None:
        self.replica = Replica(self.gpu)
        self.healed.set()

    # -- life -------------------------------------------------------------------------------------------

    async def listen(self) -> None:
        """Open the port."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.add_routes(
            [
                web.post("/v1/completions", self.complete),
                web.post("/v1/chat/completions", self.complete),
                web.get("/v1/models", self.models),
                web.get("/health", self.health),
                web.get("/metrics", self.engine_metrics),
                web.get("/dcgm/metrics", self.gpu_metrics),
            ]
        )
        self.runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, self.host, self.port, reuse_address=True)
        await site.start()
        self.port = self.runner.addresses[0][1]

    async def close(self) -> None:
        """Close the port and reset what is open, as a killed process would."""
        runner, self.runner = self.runner, None
        if runner is None:
            return
        for site in list(runner.sites):
            await site.stop()
        assert runner.server is not None
        for connection in list(runner.server.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()

    async def set_faults(self, wishes: dict[str, Any]) -> None:
        """Change faults. Raises ValueError."""
        self.faults = self.faults.changed(wishes)
        self.replica.speed = self.faults.speed
        (self.healed.clear if self.faults.hang else self.healed.set)()
        if self.faults.die and self.runner is not None:
            await self.close()
        elif not self.faults.die and self.runner is None:
            self.replica, self.latencies = Replica(self.gpu, speed=self.faults.speed), Latencies()
            self.tickets.clear()
            await self.listen()

    async def schedule(self) -> None:
        """Make steps, each as long as it takes, until cancelled."""
        clock = time.monotonic()
        while True:
            await self.healed.wait()
            if self.replica.idle:
                self.work.clear()
                await self.work.wait()
                clock = time.monotonic()
            step = self.replica.step(clock)
            self.tally(clock, step.duration_s)
            clock += step.duration_s
            delay_s = clock - time.monotonic()
            await asyncio.sleep(max(0.0, delay_s))
            self.tell(step)

    def tally(self, at: float, duration_s: float) -> None:
        """Busy time, for the GPU's utilisation."""
        if at - self.busy_since > BUSY_WINDOW_S:
            self.busy = min(1.0, self.busy_s / (at - self.busy_since))
            self.busy_s, self.busy_since = 0.0, at
        self.busy_s += duration_s

    def tell(self, step: Step) -> None:
        """Wake the handlers of sequences that got a first or last token; keep the engine's own statistics."""
        if step.tokens:
            self.latencies.itl.observe(step.duration_s, step.tokens)
        for sequence in step.first_tokens:
            self.latencies.ttft.observe(sequence.first_token_at - sequence.submitted_at)
            self.latencies.queue.observe(max(0.0, sequence.admitted_at - sequence.submitted_at))
            self.tickets[id(sequence)].first.set() if id(sequence) in self.tickets else None
        for sequence in step.finished:
            self.latencies.e2e.observe(sequence.finished_at - sequence.submitted_at)
            self.latencies.finished += 1
            if id(sequence) in self.tickets:
                self.tickets[id(sequence)].first.set()
                self.tickets[id(sequence)].done.set()

    # -- HTTP -------------------------------------------------------------------------------------------

    async def health(self, _: web.Request) -> web.Response:
        """vLLM's `/health`."""
        await self.healed.wait()
        return web.Response()

    async def models(self, _: web.Request) -> web.Response:
        """OpenAI's list of models."""
        await self.healed.wait()
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def engine_metrics(self, _: web.Request) -> web.Response:
        """vLLM's metrics."""
        await self.healed.wait()
        if self.faults.blind:
            return web.Response(status=503)
        return web.Response(text=engine_page(MODEL, self.replica, self.latencies))

    async def gpu_metrics(self, _: web.Request) -> web.Response:
        """What a DCGM exporter beside this GPU would show."""
        await self.healed.wait()
        if self.faults.blind:
            return web.Response(status=503)
        idle = time.monotonic() - self.busy_since > 2 * BUSY_WINDOW_S
        return web.Response(text=gpu_page(self.name, self.gpu, self.faults, 0.0 if idle else self.busy))

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """A completion, streamed or whole."""
        try:
            body = json.loads(await request.read())
            prompt, tokens = prompt_tokens(body), int(body.get("max_tokens") or DEFAULT_TOKENS)
        except (ValueError, TypeError, AttributeError) as error:
            return web.json_response({"error": {"message": f"not a completion request: {error}"}}, status=400)
        await self.healed.wait()
        self.requests += 1
        headers = {"x-fake-gpu": self.name}
        if self.rng.random() < self.faults.errors:
            return web.json_response({"error": {"message": "injected fault"}}, status=500, headers=headers)
        submitted = time.monotonic()
        await asyncio.sleep(REQUEST_OVERHEAD_S)
        ticket = Ticket(Sequence(prompt, max(1, tokens), submitted))
        self.tickets[id(ticket.sequence)] = ticket
        self.replica.submit(ticket.sequence)
        self.most_at_once = max(self.most_at_once, self.replica.running + len(self.replica.waiting))
        self.work.set()
        try:
            if body.get("stream"):
                return await self.stream(request, ticket, headers)
            await ticket.done.wait()
            usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
            return web.json_response(chunk("a " * tokens) | {"usage": usage}, headers=headers)
        finally:
            del self.tickets[id(ticket.sequence)]
            if not ticket.done.is_set():
                self.replica.abort(ticket.sequence)

    async def stream(self, request: web.Request, ticket: Ticket, headers: dict[str, str]) -> web.StreamResponse:
        """Server-sent events: headers with the first token, then what was made since, a few times a second."""
        response = web.StreamResponse(headers=headers | {"Content-Type": "text/event-stream"})
        await ticket.first.wait()
        await response.prepare(request)
        sent = 0
        while True:
            finished = ticket.done.is_set()
            made = ticket.sequence.output_tokens if finished else self.replica.tokens(ticket.sequence)
            if made > sent:
                await response.write(event(chunk("a " * (made - sent))))
                sent = made
            if finished:
                await response.write(b"data: [DONE]\n\n")
                return response
            await wait_for(ticket.done, CHUNK_S)


async def wait_for(event: asyncio.Event, timeout_s: float) -> None:
    """Until the event is set, or for `timeout_s`."""
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return


def prompt_tokens(body: dict[str, Any]) -> int:
    """Tokens of a completion's prompt or a chat's messages."""
    if "messages" in body:
        characters = sum(len(str(message.get("content", ""))) for message in body["messages"])
    else:
        prompt = body.get("prompt", "")
        if isinstance(prompt, list):
            return max(1, len(prompt))
        characters = len(str(prompt))
    return max(1, characters // CHARS_PER_TOKEN)


def chunk(text: str) -> dict[str, Any]:
    """A completion object."""
    return {"object": "text_completion", "model": MODEL, "choices": [{"index": 0, "text": text}]}


def event(content: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return f"data: {json.dumps(content)}\n\n".encode()
