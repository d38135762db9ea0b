# SPDX-License-Identifier: MIT
"""Reads a trace: a file of `tally trace save`, or a log with lines `trace: ` and a record in hexadecimal.

The format is that of include/abi/hypercall.h (struct tally_trace_record) and client/tally.h (struct tally_trace_file).
"""

import re
import struct
import sys

START, STOP, LEVEL, EVENTSEL, COUNTER, EVENTSEL_HW, ENABLES, OVERFLOW, DROPPED = range(1, 10)
LEVELS = ("L1, SVME=0", "L1", "L2")
COUNTER_MASK = (1 << 48) - 1

_RECORD = struct.Struct("<QQQBBBBI")
_HEAD = struct.Struct("<8sIIII")
_EVENTS = {0xC0: "instructions", 0x76: "cycles", 0xC2: "branches", 0xC6: "far transfers"}
_INSTRUCTIONS = 0xC0


class TraceError(Exception):
    """What is wrong with a trace, in one line."""


class Record:
    """One struct tally_trace_record."""

    def __init__(self, data):
        (self.time, self.tsc, self.value, self.kind, self.level, self.counter, _,
         self.counters) = _RECORD.unpack(data)


def read_records(path):
    """The records of a file of either form."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
    if data[:8] == b"TALLYTRC":
        _, version, head_bytes, record_bytes, _ = _HEAD.unpack_from(data)
        if version != 2 or record_bytes != _RECORD.size:
            raise TraceError(f"{path}: version {version} of the format is not known here")
        body = data[head_bytes:]
        if len(body) % _RECORD.size:
            raise TraceError(f"{path}: ends inside a record")
        chunks = [body[i:i + _RECORD.size] for i in range(0, len(body), _RECORD.size)]
    else:
        chunks = [bytes.fromhex(text.decode())
                  for text in re.findall(rb"\btrace: ([0-9a-f]{64})\b", data)]
    records = [Record(chunk) for chunk in chunks]
    if not records:
        raise TraceError(f"{path}: there is no trace in it")
    # of several in one log, the last
    starts = [i for i, record in enumerate(records) if record.kind == START]
    return records[starts[-1]:] if starts else records


class Counter:
    """What one counter did: `runs` are (begin, end, eventsel)."""

    def __init__(self):
        self.eventsel = 0
        self.runs = []
        self.since = None
        self.count = None  # by the intervals
        self.checked = self.wrong = 0

    def start(self, time):
        self.since = time

    def stop(self, time, ticks):
        self.runs.append((self.since, time, self.eventsel))
        if self.count is not None:
            self.count += self.ticks_counted(time - self.since, ticks)
        self.since = None

    def ticks_counted(self, time, ticks):
        """What the counter counts in that time; only of an exact clock."""
        return time // ticks if self.eventsel & 0xF000000FF == _INSTRUCTIONS else time

    def now(self, time, ticks):
        more = 0 if self.since is None else self.ticks_counted(time - self.since, ticks)
        return (self.count + more) & COUNTER_MASK


class Timeline:
    """When each level and each counter ran. Times are ticks since the first record."""

    def __init__(self, records):
        self.ticks = next((r.value for r in records if r.kind in (START, STOP)), 0)
        self.exact = self.ticks != 0
        self.origin = records[0].time
        self.levels = []  # (begin, end, level)
        self.counters = {}
        self.instants = []  # (time, text)
        self.gaps = []  # (time, records)
        self._running = 0
        self._level = None
        self._last_values = self._values_at_stop(records)
        for record in records:
            self._add(record)
        self.end = max(r.time for r in records if r.kind != DROPPED) - self.origin
        self._close(self.end)

    @staticmethod
    def _values_at_stop(records):
        """The COUNTER records in front of STOP, one for each counter."""
        seen, found = set(), set()
        if records[-1].kind == STOP:
            for record in reversed(records[:-1]):
                if record.kind != COUNTER or record.counter in seen:
                    break
                seen.add(record.counter)
                found.add(id(record))
        return found

    def _counter(self, n):
        return self.counters.setdefault(n, Counter())

    def _close(self, time):
        for n, counter in self.counters.items():
            if self._running >> n & 1:
                counter.stop(time, self.ticks or 1)
        self._running = 0
        if self._level:
            self.levels.append((self._level[0], time, self._level[1]))
        self._level = None

    def _add(self, record):
        time = record.time - self.origin
        if record.kind == DROPPED:
            if self.levels or self._level:
                self._close(self._last)
            self.gaps.append((getattr(self, "_last", 0), record.value))
            for counter in self.counters.values():
                counter.count = None
            return
        self._last = time
        if not self._level or record.kind == LEVEL:
            if self._level:
                self.levels.append((self._level[0], time, self._level[1]))
            self._level = (time, record.level)
        # a level may begin before the records that are in front of it
        if record.kind != LEVEL:
            self._runs(record, time)
        if record.kind == EVENTSEL:
            self._counter(record.counter).eventsel = record.value
            if record.value or time:
                self.instants.append((time, f"counter {record.counter}: selector {record.value:#x}"))
        elif record.kind == COUNTER:
            self._value(record, time)
        elif record.kind == OVERFLOW:
            which = " ".join(str(n) for n in range(64) if record.value >> n & 1)
            self.instants.append((time, f"overflow: counter {which}"))

    def _runs(self, record, time):
        changed = self._running ^ record.counters
        for n in range(32):
            if not changed >> n & 1:
                continue
            counter = self._counter(n)
            if record.counters >> n & 1:
                counter.start(time)
            else:
                counter.stop(time, self.ticks or 1)
        self._running = record.counters

    def _value(self, record, time):
        """A counter's value: at STOP it is compared with what the intervals say, else it is known from now on."""
        counter = self._counter(record.counter)
        if id(record) in self._last_values:
            if counter.count is not None and self.exact:
                counter.checked += 1
                counter.wrong += record.value != counter.now(time, self.ticks)
            return
        counter.count = record.value
        if counter.since is not None and time > counter.since:
            counter.runs.append((counter.since, time, counter.eventsel))
            counter.since = time

    def scale(self, ticks):
        """Instructions, where the clock is exact; else ticks."""
        return ticks / self.ticks if self.exact else ticks


def event_name(eventsel):
    """What a selector counts."""
    event = eventsel & 0xFF | eventsel >> 24 & 0xF00
    return _EVENTS.get(event, f"event {event:#x}")


def host_guest_name(eventsel):
    """Which of HostOnly and GuestOnly it has."""
    return ("neither", "GuestOnly", "HostOnly", "both")[eventsel >> 40 & 3]


def main(convert, usage):
    """A converter's program: FILE, or FILE OUTPUT."""
    arguments = sys.argv[1:]
    if len(arguments) not in (1, 2) or arguments[0] in ("-h", "--help"):
        print(usage, file=sys.stderr)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    try:
        text = convert(Timeline(read_records(arguments[0])))
    except TraceError as error:
        print(f"{sys.argv[0].rsplit('/', 1)[-1]}: {error}", file=sys.stderr)
        return 1
    if len(arguments) == 2:
        with open(arguments[1], "w", encoding="utf-8") as file:
            file.write(text)
    else:
        sys.stdout.write(text)
    return 0
