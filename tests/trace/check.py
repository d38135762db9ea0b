#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The demo's trace through tools/trace-to-perfetto and tools/trace-to-svg: check.py TOOLS LOG

The phases are known, so the spans are, too; and what they last is compared with what the counters counted, which is read
from the records themselves, by code of its own.
"""

import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

TOOLS, LOG = sys.argv[1:]
LEVELS = ["L1, SVME=0", "L1", "L2", "L1", "L1, SVME=0"]
# of LEVELS, the runs in which each counter counts without a break
RUNS = {0: [range(0, 5)], 1: [range(2, 3)], 2: [range(1, 2), range(3, 4)], 3: [range(1, 4)]}

failed = passed = 0


def check(ok, text):
    global failed, passed
    failed, passed = failed + (not ok), passed + bool(ok)
    if not ok:
        print(f"not ok  {text}")


def tool(name, path):
    return subprocess.run([sys.executable, os.path.join(TOOLS, name), path], capture_output=True,
                          text=True, check=False)


def tool_on(name, data):
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return tool(name, file.name)


def raw_records():
    with open(LOG, encoding="latin-1") as file:
        lines = re.findall(r"^trace: ([0-9a-f]{64})\r?$", file.read(), re.M)
    return [bytes.fromhex(line) for line in lines]


def counted(records):
    """Counter -> how far it moved, from the COUNTER records of START and of STOP."""
    values = {}
    for record in records:
        value, kind, counter = struct.unpack_from("<16xQBxB", record)
        if kind == 5:
            values.setdefault(counter, []).append(value)
    return {n: v[-1] - v[0] for n, v in values.items()}


def spans(events, name):
    """(begin, end) of the spans on the track with that name, in nanoseconds."""
    tids = [e["tid"] for e in events if e["name"] == "thread_name" and name in e["args"]["name"]]
    check(len(tids) == 1, f"one track '{name}'")
    return [(round(e["ts"] * 1000), round((e["ts"] + e["dur"]) * 1000), e) for e in events
            if e["ph"] == "X" and [e["tid"]] == tids]


def check_perfetto(records):
    result = tool("trace-to-perfetto", LOG)
    check(result.returncode == 0, f"trace-to-perfetto: {result.stderr}")
    events = json.loads(result.stdout)["traceEvents"]
    levels = spans(events, "level")
    check([e["name"] for _, _, e in levels] == LEVELS, "the levels are the phases")
    check(all(a[1] == b[0] for a, b in zip(levels, levels[1:])), "no gap between levels")
    moved = counted(records)
    for n, want in RUNS.items():
        runs = spans(events, f"counter {n}:")
        check(len(runs) == len(want), f"counter {n}: {len(runs)} runs")
        check(sum(end - begin for begin, end, _ in runs) == moved[n],
              f"counter {n} ran for {moved[n]} instructions, as it counted")
        check(sum(e["args"]["instructions"] for _, _, e in runs) == moved[n],
              f"counter {n}: what its spans say")
        for (begin, end, _), phases in zip(runs, want):
            check(begin == levels[phases[0]][0] and end == levels[phases[-1]][1],
                  f"counter {n} runs from {begin} to {end}, with its levels")
    check(moved[1] > 1000 and moved[2] > 2000 and moved[0] > moved[3] > moved[2], "they did count")
    tracks = [e for e in events if e["name"] == "thread_name" and "counter" in e["args"]["name"]]
    check(len(tracks) == 4, "counters that never ran have no track")


def check_svg(records):
    result = tool("trace-to-svg", LOG)
    check(result.returncode == 0, f"trace-to-svg: {result.stderr}")
    space = re.match(r"\{.*\}", ElementTree.fromstring(result.stdout).tag).group()
    root = ElementTree.fromstring(result.stdout)
    boxes = {}
    for box in root.iter(space + "rect"):
        boxes.setdefault(box.get("class"), []).append(box)
    check(len(boxes["level"]) == len(LEVELS), "a bar for each level")
    sums = [t.text.replace("\u2009", "") for t in root.iter(space + "text") if t.get("class") == "sum"]
    check(sums == [str(counted(records)[n]) for n in RUNS], f"the sums {sums}")
    for n, want in RUNS.items():
        found = [(float(b.get("x")), float(b.get("width"))) for b in boxes[f"counter{n}"]]
        check(len(found) == len(want), f"counter {n}: a bar for each run")
        for (x, width), phases in zip(found, want):
            first, last = boxes["level"][phases[0]], boxes["level"][phases[-1]]
            end = float(last.get("x")) + float(last.get("width"))
            check(abs(x - float(first.get("x"))) < 0.02 and abs(x + width - end) < 0.02,
                  f"counter {n}: its bar is under its levels")


def check_files(records):
    head = b"TALLYTRC" + struct.pack("<IIIIQ", 2, 32, 32, 2, 0)
    body = b"".join(records)
    for name in ("trace-to-perfetto", "trace-to-svg"):
        check(tool_on(name, head + body).stdout == tool(name, LOG).stdout, f"{name}: file and log are the same")
        for data, what in ((b"", "an empty file"), (head, "no records"), (head + body[:-1], "half a record"),
                           (b"TALLYTRC" + struct.pack("<IIIIQ", 9, 32, 32, 2, 0) + body, "another version")):
            result = tool_on(name, data)
            check(result.returncode == 1 and result.stderr.count("\n") == 1, f"{name}: {what} is one line")
        check(tool(name, "/nonexistent").returncode == 1, f"{name}: no file")
        lost = struct.pack("<QQQBBBBI", 0, 0, 77, 9, 0, 0, 0, 0)
        half = len(records) // 2
        result = tool_on(name, head + b"".join(records[:half]) + lost + b"".join(records[half:]))
        check(result.returncode == 0, f"{name}: with a gap: {result.stderr}")
        if name == "trace-to-perfetto":
            check(any(e["name"] == "77 records lost" for e in json.loads(result.stdout)["traceEvents"]),
                  "the gap is shown")


RECORDS = raw_records()
check(len(RECORDS) > 20, f"{LOG}: {len(RECORDS)} records")
if not failed:
    check_perfetto(RECORDS)
    check_svg(RECORDS)
    check_files(RECORDS)
print(f"trace: {passed} passed, {failed} failed")
sys.exit(failed != 0)
