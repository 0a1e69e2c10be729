"""Records and trees as lines for a terminal. Pure: colours are there, who prints may strip them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import click

from observability.fields import UNDER_WAY
from observability.instrument.plain import one_line
from observability.trail.query import Record
from observability.trail.step import State, Step, number, to_epoch
from observability.trail.tree import slow_steps

WORTH_MS = 1.0
"""Times below this are not worth a word."""

BAR = 20
"""Width of a step's bar, characters."""

_STAGES = {
    "gate": "waits for a place at the replica (max_concurrent_queries)",
    "thread": "waits for a handler thread",
    "batch": "waits for its batch",
    "run": "runs",
    "send": "waits for its client to take the answer",
    "queue": "waits for a free replica",
    "sent": "sent, and not taken up yet",
}
"""What `stage` means, in a sentence about the step."""

_COLOURS = {"DEBUG": "bright_black", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}


def show_record(record: Record) -> str:
    """A record as one line; a traceback's lines below it."""
    level = str(record.get("level", "?"))
    who = record.get("replica") or record.get("component") or "?"
    colour = _COLOURS.get(level)
    head = f"{_local(to_epoch(record))} {click.style(f'{_clean(level):<8}', fg=colour)}"
    head += f" {click.style(_clean(who), fg='cyan')}"
    if record.get("request_id"):
        head += f" {click.style(_clean(record['request_id']), fg='bright_black')}"
    return f"{head}  {_show_body(record)}"


def show_request(roots: list[Step], request_id: str) -> Iterator[str]:
    """A request's trees as lines."""
    if len(roots) > 1:
        yield f"{len(roots)} requests, or parts of one, have the id {_clean(request_id)}:"
    for root in roots:
        slow = slow_steps(root)
        title = click.style(f"Request {_clean(request_id)}", bold=True)
        yield f"{title}  {_local(root.started_s)}"
        yield from _show_step(root, root, slow, "", "")
        yield ""


def _show_step(step: Step, root: Step, slow: set[int], first: str, rest: str) -> Iterator[str]:
    yield f"{first}{_show_head(step, root)}{_mark(step, slow)}"
    inner = f"{rest}{'│  ' if step.children else '   '}"
    for record in step.logs:
        offset_ms = (step.time_of(record) - root.started_s) * 1000
        level = str(record.get("level", "?"))
        text = f"{click.style(_clean(level), fg=_COLOURS.get(level))} {_show_body(record)}"
        yield f"{inner}{offset_ms:>9.1f} ms  " + text.replace("\n", f"\n{inner}")
    if step.access is not None and step.access.get("exception"):
        for line in str(step.access["exception"]).splitlines():
            yield f"{inner}{click.style(one_line(line), fg='red')}"
    for index, child in enumerate(step.children):
        is_last = index == len(step.children) - 1
        yield from _show_step(
            child,
            root,
            slow,
            f"{rest}{'└─ ' if is_last else '├─ '}",
            f"{rest}{'   ' if is_last else '│  '}",
        )


def _show_head(step: Step, root: Step) -> str:
    access = step.access
    if access is None:
        return _show_unrecorded(step, root)
    is_running = step.state is State.UNDER_WAY
    status = "under way" if is_running else _clean(access.get("status", "?"))
    times = _offset(step, root)
    if step.queue_ms:
        times += f"  waited {step.queue_ms:.1f} ms{_show_waits(access)}"
    if step.processing_ms or not is_running:
        times += f"  ran {step.processing_ms:.1f} ms"
    if step.send_ms >= WORTH_MS:
        times += f"  sent {step.send_ms:.1f} ms"
    if step.shift_s * 1000 >= WORTH_MS:
        times += f"  (its clock is at least {step.shift_s * 1000:.1f} ms behind)"
    mates = access.get("batch_mates")
    if isinstance(mates, list) and mates:
        times += f"  in a batch with {', '.join(map(_clean, mates))}"
    if access.get("retries") and not is_running:
        times += f"  attempt {int(number(access, 'retries')) + 1}"
    colour = "red" if step.is_failed else "yellow" if is_running else "green"
    head = [click.style(_clean(_what(access)), bold=True), click.style(status, fg=colour)]
    if who := _who(access):
        head.append(click.style(_clean(who), fg="cyan"))
    head.append(times)
    if is_running:
        head.append(f"since {_local(step.started_s)}: {_show_stage(access)}")
    return f"{'  '.join(head)}  {_bar(step, root)}"


def _show_unrecorded(step: Step, root: Step) -> str:
    """The head of a step without an access record: what became of it, as far as that is known."""
    fate, where = step.fate or {}, step.where
    who = "" if where is None else click.style(_clean(where.replica), fg="cyan")
    what = f"attempt {int(number(fate, 'retries')) + 1}" if step.is_attempt else "a step"
    if step.state is State.KILLED:
        died_by = _clean(fate.get("died_by") or "unknown")
        how = f" with {died_by}" if died_by.startswith("exit") else f" by {died_by}"
        how = "" if died_by == "unknown" else how
        head = f"{click.style(what, bold=True)}  {click.style('killed', fg='red')}  {who}  "
        times = f"{_offset(step, root)}  ran {step.processing_ms:.1f} ms  {_bar(step, root)}"
        return head + times + click.style(f"  ✗ its process ended{how}", fg="red", bold=True)
    where_words = f" (was at {who})" if who else ""
    told = {
        State.DROPPED: "not recorded: at ",
        State.LOST: "lost: no record, no replica has it under way, died of it or dropped records",
    }.get(step.state, "no record (yet): under way, or lost")
    if step.state is State.DROPPED:
        told += f"{_who(fate)} {fate.get('message', '')}"
    return click.style(_clean(told), fg="red") + where_words


def _who(access: Record) -> str:
    """Where it was; "" for a call that no replica has yet."""
    if access.get("replica"):
        return str(access["replica"])
    if access.get("kind") == UNDER_WAY:
        return ""
    return f"{access.get('component', '?')} {access.get('node', '')}".strip()


def _offset(step: Step, root: Step) -> str:
    return f"+{(step.started_s - root.started_s) * 1000:.1f} ms"


def _show_stage(access: Record) -> str:
    """What a step is at that is under way."""
    stage = str(access.get("stage"))
    text = _STAGES.get(stage, stage)
    return f"{text} of {_clean(access.get('backend'))}" if stage == "queue" else text


def _show_waits(access: Record) -> str:
    """What it waited for."""
    waits = [(name, access.get(f"{name}_ms")) for name in ("sender", "replica", "batch")]
    told = [f"{name} {ms:.1f}" for name, ms in waits if isinstance(ms, float) and ms >= WORTH_MS]
    return f" ({', '.join(told)})" if told else ""


def _what(access: Record) -> str:
    way, method = access.get("way", "?"), access.get("method", "?")
    if way in ("http", "websocket"):
        return f"{method} {access.get('path', '?')}"
    return f"{way} {access.get('endpoint', '?')}.{method}"


def _bar(step: Step, root: Step) -> str:
    """Where in the request's time the step lies: waiting is light, running is dark."""
    if root.total_ms <= 0 or step is root:
        return ""
    scale = BAR / root.total_ms
    begin = min(BAR - 1, max(0, round((step.started_s - root.started_s) * 1000 * scale)))
    wait = min(BAR - begin, round(step.queue_ms * scale))
    run = min(BAR - begin - wait, max(1, round(step.processing_ms * scale)))
    return f"|{' ' * begin}{'░' * wait}{'█' * run}{' ' * (BAR - begin - wait - run)}|"


def _mark(step: Step, slow: set[int]) -> str:
    marks = []
    if step.is_failed and step.access is not None:
        error = _clean(step.access.get("error") or "failed")
        marks.append(click.style(f"  ✗ {error}", fg="red", bold=True))
    if id(step) in slow:
        reason = (
            "most of the time was spent waiting"
            if step.queue_ms > step.own_ms
            else "most of the time was spent here"
        )
        marks.append(click.style(f"  ◀ {reason}", fg="yellow", bold=True))
    return "".join(marks)


def _show_body(record: Record) -> str:
    if record.get("kind") == "access":
        return _show_access(record)
    where = (
        f"{_clean(record['file'])}:{_clean(record.get('line', '?'))} -- "
        if record.get("file")
        else ""
    )
    if not where and record.get("logger"):
        where = f"{_clean(record['logger'])} -- "
    text = f"{where}{_clean(record.get('message', ''))}"
    if record.get("extra"):
        text += f"  {_clean(record['extra'])}"
    if record.get("exception"):
        steps = str(record["exception"]).splitlines()
        text += "".join(f"\n    {one_line(step)}" for step in steps)
    return text


def _show_access(record: Record) -> str:
    colour = "red" if Step(record).is_failed else "green"
    status = click.style(_clean(record.get("status", "?")), fg=colour)
    text = f"{_clean(_what(record))} {status}"
    for name, label in (("queue_ms", "waited"), ("processing_ms", "ran")):
        if name in record:
            text += f"  {label} {_clean(record[name])} ms"
    if "bytes_out" in record:
        text += f"  {_clean(record['bytes_out'])} bytes"
    if record.get("error"):
        text += f"  {click.style(_clean(record['error']), fg='red')}"
    return text


def _local(epoch_s: float) -> str:
    try:
        moment = datetime.fromtimestamp(epoch_s)
    except (OverflowError, OSError, ValueError):  # a record with times that cannot be
        return "at an unknown time"
    return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d}"


def _clean(value: object) -> str:
    return one_line(str(value))
