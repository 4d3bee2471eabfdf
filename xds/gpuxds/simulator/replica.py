"""One inference server's scheduler: continuous batching, chunked prefill, KV-bounded admission.

A step admits waiting requests first come first served while there is room, decodes one token of every
running sequence and prefills chunks up to the token budget. When the KV cache is full the newest sequence is
preempted and recomputed later, as vLLM does. There is no clock here: `step` says how long it takes, and the
caller makes that time pass.

A step costs O(1) plus what finishes: sequences decode in lockstep, so each one's end is known as a step
number when it starts, and sums of contexts are kept instead of contexts.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field

from gpuxds.simulator.gpus import GpuType


@dataclass(eq=False, slots=True)
class Sequence:
    """One request as the scheduler sees it."""

    prompt_tokens: int
    output_tokens: int
    submitted_at: float
    admitted_at: float = 0.0
    first_token_at: float = 0.0
    finished_at: float = 0.0
    generated: int = 0
    """Tokens made before the last preemption; see `tokens` for those made so far."""
    prefilled: int = 0
    decoding_since: int = -1
    """Step counter at its first decode step since it was (re)admitted; -1: not decoding."""
    aborted: bool = False

    @property
    def to_prefill(self) -> int:
        """Tokens its KV cache needs before it can decode: the prompt, and what a preemption threw away."""
        return self.prompt_tokens + self.generated


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did. Times are those at its end."""

    duration_s: float
    first_tokens: tuple[Sequence, ...] = ()
    finished: tuple[Sequence, ...] = ()
    tokens: int = 0


@dataclass(slots=True)
class Replica:
    """The state of one server."""

    gpu: GpuType
    max_num_seqs: int = 256
    speed: float = 1.0
    """Clock ratio; 0.5 is a GPU throttled to half."""
    waiting: deque[Sequence] = field(default_factory=deque)
    prefilling: deque[Sequence] = field(default_factory=deque)
    decoding: dict[int, Sequence] = field(default_factory=dict)
    """By arrival number, so that the newest is last."""
    ends: list[tuple[int, int]] = field(default_factory=list)
    """Heap of (step counter at which it finishes, arrival number)."""
    counter: int = 0
    arrivals: int = 0
    numbers: dict[int, int] = field(default_factory=dict)
    context_tokens: int = 0
    """Contexts of all decoding sequences together."""
    prefilled_tokens: int = 0
    """KV tokens of sequences that are still being prefilled."""
    preemptions: int = 0
    prompt_tokens_total: int = 0
    output_tokens_total: int = 0

    def submit(self, sequence: Sequence) -> None:
        """Queue a request."""
        self.waiting.append(sequence)

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self.decoding) + len(self.prefilling)

    @property
    def kv_used(self) -> int:
        """Tokens in the KV cache."""
        return self.context_tokens + self.prefilled_tokens

    @property
    def idle(self) -> bool:
        """Nothing to do."""
        return not (self.waiting or self.prefilling or self.decoding)

    def tokens(self, sequence: Sequence) -> int:
        """Output tokens of a sequence so far."""
        if sequence.decoding_since < 0:
            return sequence.generated
        return min(sequence.output_tokens, sequence.generated + self.counter - sequence.decoding_since)

    def step(self, now: float) -> Step:
        """Do one step and say how long it takes; its effects are those at `now + duration_s`."""
        self.admit(now)
        self.make_room()
        chunks, ready = self.prefill()
        if not self.decoding and not chunks:
            return Step(0.0)
        context = self.context_tokens
        duration_s = self.gpu.step_s(len(self.decoding), context, chunks, self.speed)
        self.counter += 1
        made = len(self.decoding) + len(ready)
        self.context_tokens += len(self.decoding)
        at = now + duration_s
        for sequence in ready:
            self.start_decoding(sequence, at)
        finished = self.finish(at)
        self.output_tokens_total += made
        return Step(duration_s, tuple(s for s in ready if s.first_token_at == at), finished, made)

    def admit(self, now: float) -> None:
        """Take waiting requests into the batch while sequences and KV tokens allow."""
        promised = sum(sequence.to_prefill - sequence.prefilled for sequence in self.prefilling)
        while self.waiting and self.running < self.max_num_seqs:
            sequence = self.waiting[0]
            if sequence.aborted:
                self.waiting.popleft()
                continue
            need = sequence.to_prefill + 1
            if self.kv_used + promised + need > self.gpu.kv_tokens and self.running:
                return
            promised += need
            sequence.admitted_at = sequence.admitted_at or now
            self.prefilling.append(self.waiting.popleft())

    def make_room(self) -> None:
        """Preempt the newest sequences until every decoding one can grow by a token."""
        while len(self.decoding) > 1 and self.kv_used + len(self.decoding) > self.gpu.kv_tokens:
            _, sequence = self.decoding.popitem()
            self.release(sequence)
            sequence.prefilled = 0
            self.waiting.appendleft(sequence)
            self.preemptions += 1

    def prefill(self) -> tuple[tuple[tuple[int, int], ...], list[Sequence]]:
        """Chunks that the token budget and the KV cache allow, and the sequences whose prompt they complete."""
        growth = len(self.decoding)
        free = self.gpu.kv_tokens - self.kv_used - growth
        budget = min(self.gpu.max_batched_tokens - growth, free)
        chunks: list[tuple[int, int]] = []
        ready: list[Sequence] = []
        while self.prefilling and budget > 0:
            sequence = self.prefilling[0]
            if sequence.aborted:
                self.prefilled_tokens -= sequence.prefilled
                self.prefilling.popleft()
                continue
            new = min(budget, sequence.to_prefill - sequence.prefilled)
            chunks.append((new, sequence.prefilled))
            sequence.prefilled += new
            self.prefilled_tokens += new
            self.prompt_tokens_total += new
            budget -= new
            if sequence.prefilled < sequence.to_prefill:
                break
            ready.append(self.prefilling.popleft())
        return tuple(chunks), ready

    def start_decoding(self, sequence: Sequence, at: float) -> None:
        """A prompt is complete: its step also made the next token."""
        self.prefilled_tokens -= sequence.prefilled
        self.context_tokens += sequence.to_prefill
        sequence.decoding_since = self.counter - 1
        sequence.first_token_at = sequence.first_token_at or at
        self.arrivals += 1
        self.decoding[self.arrivals] = sequence
        self.numbers[id(sequence)] = self.arrivals
        end = self.counter - 1 + sequence.output_tokens - sequence.generated
        heapq.heappush(self.ends, (max(end, self.counter), self.arrivals))

    def finish(self, at: float) -> tuple[Sequence, ...]:
        """Sequences whose last token this step made."""
        done: list[Sequence] = []
        while self.ends and self.ends[0][0] <= self.counter:
            _, number = heapq.heappop(self.ends)
            sequence = self.decoding.pop(number, None)
            if sequence is None:
                continue
            self.release(sequence)
            sequence.finished_at = at
            done.append(sequence)
        return tuple(done)

    def release(self, sequence: Sequence) -> None:
        """Give a decoding sequence's KV cache back."""
        made = self.counter - sequence.decoding_since
        self.context_tokens -= sequence.to_prefill + made - 1
        sequence.generated += made
        sequence.decoding_since = -1
        self.numbers.pop(id(sequence), None)

    def abort(self, sequence: Sequence) -> None:
        """The client went away."""
        sequence.aborted = True
        number = self.numbers.get(id(sequence))
        if number is not None:
            del self.decoding[number]
            self.release(sequence)
