"""Breaks the rules of time and exactness, one at a time, and looks whether a test notices.

    python tools/mutants.py            every mutant
    python tools/mutants.py tie fence  those whose name has one of these words

Each mutant changes one place in a copy of the tree and runs the tests that ought to fail. A mutant that survives is a
hole in the suite; the exit code is then 1. It takes some minutes: kernels are compiled anew for each change to them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("src", "tests", "examples", "docs", "tools", "pyproject.toml", "README.md", "CHANGELOG.md", "Makefile")
WINDOWS = ("tests/unit/retrieval", "tests/properties")
VERDICTS = ("tests/unit/engines", "tests/unit/ingestion", "tests/properties")
KERNELS = ("tests/unit/aggregations",)
TILES = ("tests/properties/test_tiles.py",)
ROWS_OF_WINDOWS, NESTED = ("tests/properties/test_window_rows.py",), ("tests/properties/test_nested.py",)
GROWING, LIFETIMES = ("tests/properties/test_growing.py",), ("tests/properties/test_engine_vs_oracle.py",)
LAWS, ADDED = ("tests/properties/test_aggregation_laws.py",), ("tests/properties/test_added_aggregation.py",)
DERIVED = ("tests/unit/testing/test_given_derived.py", "tests/recovery/test_derive_kill.py")
DERIVER = "derivation/deriver.py"
LISTS = ("tests/unit/testing/test_given_lists.py", "tests/unit/app/test_lists.py")
BACKFILLS = ("tests/unit/app/test_backfill.py", "tests/recovery/test_backfill.py")
SCHEDULED = ("tests/unit/app/test_scheduled.py",)
KERNEL, EXACT = "aggregations/kernel.py", "aggregations/exact.py"


@dataclass(frozen=True, slots=True)
class Mutant:
    """A rule, the place where the code keeps it, what it is changed to, and the tests that should notice.

    `old` must stand in `file` (below src/headrace) exactly once.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = WINDOWS


MUTANTS = (
    Mutant("window upper edge: an event at t is inside", KERNEL, "return lo, hi\n", "return lo, hi + 1\n"),
    Mutant("window lower edge: an event at lo is outside", KERNEL, "return lo, hi\n", "return lo + 1, hi\n"),
    Mutant("hop: the lower edge is not rounded down", KERNEL, "lo -= lo % windows[w, WINDOW_HOP]", "lo -= 0"),
    Mutant(
        "resolution: the upper edge is not rounded down", KERNEL,
        "hi -= hi % windows[w, WINDOW_RESOLUTION]", "hi -= 0",
    ),
    Mutant(
        "scheduled: the audit takes the position of the stream", "retrieval/history.py",
        "own, given = self.groups.get(group.version), self.streams.get(group.stream)",
        "own, given = None, self.streams.get(group.stream)",
        SCHEDULED,
    ),
    Mutant(
        "scheduled: an answer names the position of the stream", "retrieval/online.py",
        "clock_us=clocks, groups=groups)", "clock_us=clocks)",
        SCHEDULED,
    ),
    Mutant(
        "scheduled: the horizon is that of the stream", "retrieval/online.py",
        "if name not in self._own_clock}", "}",
        SCHEDULED,
    ),
    Mutant(
        "scheduled: a run leaves out what only the stream's clock has passed", "app/scheduled.py",
        "clock_us=None, served=True",
        "clock_us=decode_position(parts.online.position()).clock_us.get(group.stream), served=True",
        SCHEDULED,
    ),
    Mutant(
        "scheduled: records change before the position does", "ingestion/backfill.py",
        "return [*pending.items(), *((key, data) for key in states)]", "return list(pending.items())",
        SCHEDULED,
    ),
    Mutant(
        "scheduled: a group joins the stream without what it lacks", "app/applying.py",
        "*(names[version] for version in sorted(joining))", "*()",
        SCHEDULED,
    ),
    Mutant(
        "scheduled: stream compute goes on with it", "features/plan.py",
        "if group.version not in self.scheduled)", ")",
        SCHEDULED,
    ),
    Mutant(
        "running totals: a carry is lost", "aggregations/prefixes.py",
        "high += more_high + (low >> 62)", "high += more_high", ("tests/properties/test_running_totals.py",),
    ),
    Mutant(
        "decayed weights: a step of the table is off", "aggregations/decayed.py",
        "_WEIGHTS[power & (_STEPS - 1)]", "_WEIGHTS[(power - 1) & (_STEPS - 1)]", ROWS_OF_WINDOWS,
    ),
    Mutant(
        "hash of approximate counts: another rotation", "aggregations/sketch.py",
        "_finished(_turned(h, 27) * _P1 + _P4)", "_finished(_turned(h, 26) * _P1 + _P4)", ROWS_OF_WINDOWS,
    ),
    Mutant(
        "most frequent values: ties go to the greatest", "aggregations/nested.py",
        'np.argsort(-often[:found], kind="mergesort")', 'np.argsort(often[:found], kind="mergesort")[::-1]', NESTED,
    ),
    Mutant(
        "buckets: a null key is one", "aggregations/nested.py",
        "counts(i8, f8, by_kind, by, by_validity, where,", "counts(i8, f8, ROWS, by, by_validity, where,", NESTED,
    ),
    Mutant(
        "cap: one value more is counted", "aggregations/frequent.py", "if found == cap:", "if found == cap + 1:", NESTED
    ),
    Mutant(
        "buckets: one more than the cap over the lifetime", "aggregations/nested.py",
        "if found > cap:", "if found > cap + 1:", NESTED,
    ),
    Mutant(
        "growing states: an old value loses its count", "aggregations/growing.py",
        "often[found - 1] += more", "often[found - 1] = more", GROWING,
    ),
    Mutant(
        "growing states: a cap of the state holds for all features of it", "aggregations/growing.py",
        "if state[1] < 0 or state[1] > cap:", "if state[1] < 0:", GROWING,
    ),
    Mutant(
        "growing states: one value more than the cap is kept", "aggregations/growing.py",
        "found == cap:", "found == cap + 1:", GROWING,
    ),
    Mutant(
        "growing states: the last rank of a register wins", "aggregations/sketch.py",
        "registers[place] = max(registers[place], rank)", "registers[place] = rank", GROWING,
    ),
    Mutant(
        "growing states: free digits of a moment are cut off twice", "aggregations/moments.py",
        "s3[3 * free :]", "s3[2 * free :]", GROWING,
    ),
    Mutant(
        "growing states: a kept row is counted again", "aggregations/growing.py",
        "folded = flags >= 0 and i8[flags + i] != 0", "folded = False", LIFETIMES,
    ),
    Mutant(
        "growing states: an event at t is inside", "aggregations/growing.py",
        "stop = first_at_or_after(i8, times, 0, n, hi)", "stop = first_at_or_after(i8, times, 0, n, hi + 1)", LIFETIMES,
    ),
    Mutant(
        "growing states: texts keep the numbers of another dictionary", "aggregations/growing.py",
        "if texts[s] and words[at + 1] > 0:", "if texts[s] and words[at + 1] < 0:", LIFETIMES,
    ),
    Mutant(
        "kept rows: the greatest is the least", "aggregations/kept.py",
        "return a > b if greatest else a < b", "return a < b", GROWING,
    ),
    Mutant(
        "kept rows: a bucket without a value has no row", "aggregations/kept.py",
        "            keep[i] = True\n            found += 1\n        held", "            found += 1\n        held",
        GROWING,
    ),
    Mutant(
        "merged states: the base of one is lost", "aggregations/records.py",
        "    fold_base(b.base, layout.lanes, a.base)\n", "", LAWS,
    ),
    Mutant(
        "merged states: extremes of nothing count", "aggregations/tiles.py",
        "if ops & EXTREMES and more[at + AT_VALID] > 0:", "if ops & EXTREMES:", LAWS,
    ),
    Mutant(
        "merged states: registers are those of one", "aggregations/growing.py",
        "np.maximum(_registers(a), _registers(b))", "_registers(a)", LAWS,
    ),
    Mutant(
        "merged states: sums of a bucket in both are those of one", "aggregations/growing.py",
        "            lane += other\n", "", LAWS,
    ),
    Mutant(
        "composed aggregations: an infinite value is one", "aggregations/aggregation.py",
        "valid & np.isfinite(found)", "valid", ADDED,
    ),
    Mutant(
        "records: another format is read", "aggregations/records.py",
        "    if found != FORMAT:", "    if found > FORMAT:", GROWING,
    ),
    Mutant(
        "texts: a merge does not order its dictionary", "aggregations/texts.py",
        "self._texts = sorted(", "self._texts = list(", ("tests/properties/test_engine_vs_oracle.py",),
    ),
    Mutant("rounding: half away from zero", EXACT, "if half and (rest or mantissa & 1):", "if half:"),
    Mutant("null rule: a variance of too few values", KERNEL, "ok = count > freedom", "ok = count >= freedom"),
    Mutant("null rule: share of nothing", KERNEL, "elif code == ANY:\n        ok = count > 0",
           "elif code == ANY:\n        ok = True"),
    Mutant("null rule: NaN and -0.0", "core/columns.py", "values = column.values + 0.0", "values = column.values"),
    Mutant(
        "as served: the limit itself is below the limit", KERNEL,
        "if offsets >= 0 and i8[offsets + i] >= limits[i8[partitions + i]]:",
        "if offsets >= 0 and i8[offsets + i] > limits[i8[partitions + i]]:",
    ),
    Mutant(
        "tie rule: partition and offset before id", "aggregations/records.py",
        "(stamps[i], ids[i], partitions[i], offsets[i])", "(stamps[i], partitions[i], offsets[i], ids[i])",
    ),
    Mutant(
        "fence: a delta that was applied is applied again", "aggregations/splice.py",
        "fresh |= have < positions[p]", "fresh |= have <= positions[p]",
    ),
    Mutant(
        "fence of table rows", "aggregations/table_splice.py",
        "if orders[row] <= newest:", "if orders[row] < newest:",
        VERDICTS,
    ),
    Mutant(
        "cut: events that the as-of horizon needs are folded", "aggregations/records.py",
        "floor_to(delta.clock_us - horizon_us - layout.reach_us,", "floor_to(delta.clock_us,",
    ),
    Mutant(
        "cut in the compiled way", "aggregations/splice.py", "cut = clock - about[_REACH]", "cut = clock",
    ),
    Mutant(
        "tiles: an edge falls into a tile", "aggregations/tiles.py",
        "cut = clock - levels[level, LEVEL_AGE]", "cut = clock - levels[level, LEVEL_AGE] + 20", TILES,
    ),
    Mutant(
        "tiles: a counted row is counted again", KERNEL,
        "folded = flags >= 0 and i8[flags + i] != 0", "folded = False", TILES,
    ),
    Mutant(
        "tiles: a value that does not fit is folded", "aggregations/tiles.py",
        "or sums[index, 0] + value >= _MOST_SUM", "", TILES,
    ),
    Mutant(
        "tiles: the last row of a tile is dropped", "aggregations/tiles.py",
        "        if last >= 0:\n            keep[last] = True\n", "", TILES,
    ),
    Mutant(
        "dedupe horizon: its last microsecond", "engines/stream/verdicts.py",
        "stamp - counted_at <= stream.dedupe_us", "stamp - counted_at < stream.dedupe_us",
        VERDICTS,
    ),
    Mutant(
        "dedupe: a duplicate prolongs the horizon", "engines/stream/verdicts.py",
        "codes[row] = DUPLICATE\n                continue",
        "codes[row] = DUPLICATE\n                seen[key] = stamp\n                continue",
        VERDICTS,
    ),
    Mutant(
        "future: an event at the limit is refused", "engines/stream/verdicts.py",
        "times > arrivals + stream.future_us", "times >= arrivals + stream.future_us",
        VERDICTS,
    ),
    Mutant(
        "lateness: an event at the limit is late", "engines/stream/verdicts.py",
        "late = None if stream.lateness_us is None else times < clocks",
        "late = None if stream.lateness_us is None else times <= clocks",
        VERDICTS,
    ),
    Mutant(
        "clock: event time alone", "engines/stream/verdicts.py",
        "own = np.minimum(times, arrivals)", "own = times.copy()",
        VERDICTS,
    ),
    Mutant(
        "tables: a row at t counts", "aggregations/reads.py",
        "if i8[times + row] < t and i8[available + row] < t", "if i8[times + row] <= t and i8[available + row] < t",
    ),
    Mutant(
        "tables: a row counts before it is available", "aggregations/reads.py",
        "if i8[times + row] < t and i8[available + row] < t", "if i8[times + row] < t",
    ),
    Mutant("tables: the edge of the ttl", "aggregations/reads.py", "time < t - ttl", "time <= t - ttl"),
    Mutant(
        "derive: an event does not wait for what arrived before it", DERIVER,
        "limit_us = self._frontier_us()", "limit_us = MAX_US", DERIVED,
    ),
    Mutant(
        "derive: what the condition leaves out counts", DERIVER, "codes[at[~belongs]] = OUTSIDE", "pass", DERIVED,
    ),
    Mutant(
        "derive: a duplicate of the source counts", DERIVER,
        "for offset, code in exceptions.items():", "for offset, code in ():", DERIVED,
    ),
    Mutant(
        "derive: as served is derived again", "retrieval/history.py",
        "return ServedAt(streams, np.full(n, -1, np.int64), None if logged else positions)",
        "return ServedAt(streams, np.full(n, -1, np.int64), positions)",
        (*DERIVED, "tests/unit/app/test_derived.py"),
    ),
    Mutant(
        "derive: the clock of a derived stream is that of its events alone", "engines/stream/verdicts.py",
        "(codes == OUTSIDE), NULL_US, np.minimum(times, arrivals))", "(codes == OUTSIDE), NULL_US, times)",
        ("tests/unit/app/test_derived.py",),
    ),
    Mutant(
        "derive: what the stream leaves out moves its clock", "engines/stream/verdicts.py",
        "(codes == DEAD) | (codes == OUTSIDE), NULL_US", "codes == DEAD, NULL_US",
        ("tests/unit/app/test_derived.py", "tests/unit/app/test_retention.py"),
    ),
    Mutant(
        "records: the clocks of other partitions are seen in a record", "engines/stream/engine.py",
        "clocks = judged.clocks\n",
        "clocks = np.maximum(judged.clocks, max(s.clock_us for s in states))\n",
        ("tests/unit/app/test_reconciling.py",),
    ),
    Mutant(
        "reconciliation: events of one time in another order are a difference", "aggregations/records.py",
        "rows[:, np.lexsort(rows[::-1])])", "rows)", ("tests/unit/app/test_reconciling.py",),
    ),
    Mutant(
        "tables over history: a row at t counts", "aggregations/latest.py",
        "following < stop and times[following] < t:", "following < stop and times[following] <= t:", KERNELS,
    ),
    Mutant(
        "tables over history: a row counts before it is available", "aggregations/latest.py",
        "(not late or available[row] < t)", "(not late or available[row] <= t)", KERNELS,
    ),
    Mutant(
        "tables over history: the edge of the ttl", "aggregations/latest.py",
        "times[i] >= t - ttl", "times[i] > t - ttl", KERNELS,
    ),
    Mutant(
        "tables over history: hidden rows end the search too soon", "aggregations/latest.py",
        "if soonest[i - first] >= t or", "if soonest[i - first] >= t - 50 or", KERNELS,
    ),
    Mutant(
        "lists: a null element makes the whole list null", "core/columns.py",
        "np.isnan(elements).all(axis=1)", "np.isnan(elements).any(axis=1)", LISTS,
    ),
    Mutant(
        "lists: all elements of one are read from the first", "aggregations/layout.py",
        "else first_column[a.input] + element", "else first_column[a.input]", LISTS,
    ),
    Mutant(
        "rates: what a tile counts already is counted again", "aggregations/window_rows.py",
        "if flags >= 0 and i8[flags + i] != 0:", "if False:", TILES,
    ),
    Mutant(
        "rates: tiles before the window are added", "aggregations/window_rows.py",
        "first_tile = first_at_or_after(i8, tiles, 0, stop_tile, lo)", "first_tile = np.int64(0)", TILES,
    ),
    Mutant(
        "data sets: a changed label trains on former truth", "app/datasets.py",
        "if then.label != now.label else", "if False else", ("tests/unit/app/test_training_data.py",),
    ),
    Mutant(
        "data sets: rows of a sample weigh one each", "orchestration/retraining.py",
        "    weights = None if data.weights is None else data.weights[early]", "    weights = None",
        ("tests/unit/app/test_training_data.py",),
    ),
    Mutant(
        "labels: a row trains before its wait has passed", "training/dataset.py",
        "done = t + model.label.wait_us <= now_us", "done = t <= now_us", ("tests/unit/training", "tests/unit/app"),
    ),
    Mutant(
        "backfill: a piece that was cut off is done again over another range", "ingestion/backfill.py",
        "target = begun or [", "target = [", BACKFILLS,
    ),
    Mutant(
        "backfill: published behind what is served", "app/backfill.py",
        "            _check_complete(parts, groups)\n", "", BACKFILLS,
    ),
    Mutant(
        "backfill: what came while it ran is left out", "app/backfill.py",
        "            _advance(parts, groups, None, None)\n            _check_complete(parts, groups)\n", "", BACKFILLS,
    ),
    Mutant(
        "backfill: a dropped version is taken to be as far as stream compute", "app/backfill.py",
        "GroupState(served.streams[stream], clock_us",
        "GroupState(committed_positions(parts.features)[stream], clock_us",
        BACKFILLS,
    ),
    Mutant(
        "kept: the version to roll back to is let go", "app/kept.py",
        "sorted(live if former is None else live | {former})", "sorted(live)", ("tests/unit/app/test_kept.py",),
    ),
    Mutant(
        "kept: a challenger's features are shown to the champion", "orchestration/retraining.py",
        "    if view is None:\n        return fitted", "    if True:\n        return fitted",
        ("tests/unit/app/test_kept.py",),
    ),
)  # fmt: skip


def copied(place: Path) -> None:
    """A copy of the tree, compiled kernels left out: their cache does not see changes to what they call."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, place / part, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy2(source, place / part)


def survives(mutant: Mutant, place: Path) -> bool:
    """Whether the tests of a mutant pass although the code in `place` is changed; the change is undone afterwards."""
    path = place / "src" / "headrace" / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.name}: its place stands {text.count(mutant.old)} times in {mutant.file}; renew it")
    path.write_text(text.replace(mutant.old, mutant.new))
    try:
        return passes(place, mutant.tests)
    finally:
        path.write_text(text)
        for cache in (place / "src").rglob("*.nb[ic]"):
            cache.unlink()


def passes(place: Path, tests: tuple[str, ...]) -> bool:
    """Whether tests pass in a copy of the tree."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(place / "src"), "HYPOTHESIS_PROFILE": "mutants"}
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, check=False).returncode == 0


def main() -> int:
    """Run the mutants that were asked for; 1 if one survives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only mutants whose name has one of these words")
    words = parser.parse_args().words
    chosen = [m for m in MUTANTS if not words or any(word in m.name for word in words)]
    alive = []
    with tempfile.TemporaryDirectory(prefix="headrace-mutants-") as folder:
        place = Path(folder)
        copied(place)
        for mutant in chosen:
            began = time.perf_counter()
            lives = survives(mutant, place)
            alive += [mutant.name] * lives
            print(
                f"{'SURVIVES' if lives else 'killed  '} {mutant.name} ({time.perf_counter() - began:.0f} s)", flush=True
            )
    print(f"{len(chosen) - len(alive)} of {len(chosen)} mutants killed")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
