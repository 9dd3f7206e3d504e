"""The rules of time and exactness that tools/mutants.py breaks, and the tests that ought to notice.

The tests are few and small: each mutant compiles anew what its tests use, and a survivor costs all of them.
"""

from __future__ import annotations

from dataclasses import dataclass


def of(file: str, *names: str) -> tuple[str, ...]:
    """These tests of a file below tests/, or all of it."""
    return tuple(f"tests/{file}.py::{name}" for name in names) or (f"tests/{file}.py",)


def worlds(*names: str) -> tuple[str, ...]:
    return of("properties/test_engine_vs_oracle", *(f"test_{name}" for name in names))


def laws(*kinds: str) -> tuple[str, ...]:
    law = "test_states_merge_in_any_order_to_the_same_bytes_and_values"
    return of("properties/test_aggregation_laws", *(f"{law}[{kind}]" for kind in kinds))


def rows(*names: str) -> tuple[str, ...]:
    return of("properties/test_window_rows", *(f"test_{name}" for name in names))


def tiles(*names: str) -> tuple[str, ...]:
    return of("properties/test_tiles", *(f"test_{name}" for name in names))


def growing(*names: str) -> tuple[str, ...]:
    return of("properties/test_growing", *(f"test_{name}" for name in names))


EDGES = rows("a_rate_divides_by_the_span_that_the_window_really_has")
TIES = worlds("every_tie_and_edge_is_read_as_the_oracle_says")
SERVED = worlds("history_as_served_equals_the_oracle_at_each_position")
LIFETIMES = worlds("what_the_lifetime_keeps_gives_the_values_of_all_events")
ONLINE = worlds("online_reads_equal_the_oracle")
SPLICES = of("properties/test_splice")
TABLES = of("properties/test_tables_vs_oracle")
EDGES_OF_TABLES = of("unit/aggregations/test_table_reads")
TABLE_SPLICES = of("properties/test_table_splice")
VERDICTS = (*of("unit/engines/test_verdicts"), *ONLINE)
LEFT_OUT = of(
    "unit/engines/test_verdicts", "test_what_a_derived_stream_leaves_out_moves_its_clock_as_little_as_a_dead_letter"
)
LATEST = of("unit/aggregations/test_latest")
NESTED = of(
    "properties/test_nested", "test_conditions", "test_more_than_a_thousand_buckets_are_null_over_the_lifetime_alone"
)
CAPS = growing(*(f"many_different_values_are_exact_up_to_the_cap_and_null_beyond[{n}]" for n in (1_001, 1_201)))
KEPT = growing("old_rows_that_extremes_by_bucket_need_stay_and_no_others")
EDGE_OF_TILES = tiles("the_first_and_the_last_value_of_a_tile_stay_though_nulls_lie_around_them")
RATES = tiles("the_strategy_makes_tiles[rate of 1 by None over 480]", "tiles_change_no_value")
ADDED = of(
    "properties/test_added_aggregation",
    "test_a_value_that_no_float_holds_is_null",
)
DERIVED = (*of("unit/testing/test_given_derived"), *of("recovery/test_derive_kill"))
DERIVER = "derivation/deriver.py"
LISTS = (*of("unit/testing/test_given_lists"), *of("unit/app/test_lists"))
BACKFILLS = (*of("unit/app/test_backfill"), *of("recovery/test_backfill"))
SCHEDULED = of("unit/app/test_scheduled")
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
    tests: tuple[str, ...]


MUTANTS = (
    Mutant("window upper edge: an event at t is inside", KERNEL, "return lo, hi\n", "return lo, hi + 1\n", EDGES),
    Mutant("window lower edge: an event at lo is outside", KERNEL, "return lo, hi\n", "return lo + 1, hi\n", EDGES),
    Mutant("hop: the lower edge is not rounded down", KERNEL, "lo -= lo % windows[w, WINDOW_HOP]", "lo -= 0", EDGES),
    Mutant(
        "resolution: the upper edge is not rounded down", KERNEL,
        "hi -= hi % windows[w, WINDOW_RESOLUTION]", "hi -= 0", TIES,
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
        "high += more_high + (low >> 62)", "high += more_high", of("properties/test_running_totals"),
    ),
    Mutant(
        "decayed weights: a step of the table is off", "aggregations/decayed.py",
        "_WEIGHTS[power & (_STEPS - 1)]", "_WEIGHTS[(power - 1) & (_STEPS - 1)]",
        rows("weights_halve_with_each_half_life"),
    ),
    Mutant(
        "hash of approximate counts: another rotation", "aggregations/sketch.py",
        "_finished(_turned(h, 27) * _P1 + _P4)", "_finished(_turned(h, 26) * _P1 + _P4)",
        rows("the_hash_of_a_number_is_xxh64_of_its_eight_bytes"),
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
        "cap: one value more is counted", "aggregations/frequent.py", "if found == cap:", "if found == cap + 1:",
        of("properties/test_nested", "test_more_than_a_thousand_different_values_are_null_and_counted")
    ),
    Mutant(
        "buckets: one more than the cap over the lifetime", "aggregations/nested.py",
        "if found > cap:", "if found > cap + 1:", NESTED,
    ),
    Mutant(
        "growing states: an old value loses its count", "aggregations/growing.py",
        "often[found - 1] += more", "often[found - 1] = more",
        growing("any_order_and_any_split_give_the_same_words_and_the_oracles_values"),
    ),
    Mutant(
        "growing states: a cap of the state holds for all features of it", "aggregations/grown_reads.py",
        "if state[1] < 0 or state[1] > cap:", "if state[1] < 0:",
        CAPS,
    ),
    Mutant(
        "growing states: one value more than the cap is kept", "aggregations/growing.py",
        "found == cap:", "found == cap + 1:",
        CAPS,
    ),
    Mutant(
        "growing states: the last rank of a register wins", "aggregations/sketch.py",
        "registers[place] = max(registers[place], rank)", "registers[place] = rank",
        of("unit/aggregations/test_sketch"),
    ),
    Mutant(
        "growing states: free digits of a moment are cut off twice", "aggregations/moments.py",
        "s3[3 * free :]", "s3[2 * free :]",
        laws("skewness"),
    ),
    Mutant(
        "growing states: a kept row is counted again", "aggregations/growing.py",
        "folded = flags >= 0 and i8[flags + i] != 0", "folded = False", LIFETIMES,
    ),
    Mutant(
        "growing states: an event at t is inside", "aggregations/grown_reads.py",
        "stop, stop_tile = first_at_or_after(i8, times, 0, n, hi), np",
        "stop, stop_tile = first_at_or_after(i8, times, 0, n, hi + 1), np", LIFETIMES,
    ),
    Mutant(
        "growing states: texts keep the numbers of another dictionary", "aggregations/tile_states.py",
        "if texts[s] and words[at + 1] > 0:", "if texts[s] and words[at + 1] < 0:", LIFETIMES,
    ),
    Mutant(
        "kept rows: the greatest is the least", "aggregations/kept.py",
        "return a > b if greatest else a < b", "return a < b",
        KEPT,
    ),
    Mutant(
        "kept rows: a bucket without a value has no row", "aggregations/kept.py",
        "            keep[i] = True\n            found += 1\n        held", "            found += 1\n        held",
        KEPT,
    ),
    Mutant(
        "merged states: the base of one is lost", "aggregations/records.py",
        "    fold_base(b.base, layout.lanes, a.base)\n", "",
        laws("sum"),
    ),
    Mutant(
        "merged states: extremes of nothing count", "aggregations/tiles.py",
        "if ops & EXTREMES and more[at + AT_VALID] > 0:", "if ops & EXTREMES:",
        of("properties/test_aggregation_laws", "test_a_state_without_values_changes_no_extreme"),
    ),
    Mutant(
        "merged states: registers are those of one", "aggregations/growing.py",
        "np.maximum(registers_of(a), registers_of(b))", "registers_of(a)",
        laws("approx_n_unique"),
    ),
    Mutant(
        "merged states: sums of a bucket in both are those of one", "aggregations/growing.py",
        "            lane += other\n", "",
        laws("sum"),
    ),
    Mutant(
        "composed aggregations: an infinite value is one", "aggregations/aggregation.py",
        "valid & np.isfinite(found)", "valid", ADDED,
    ),
    Mutant(
        "records: another format is read", "aggregations/records.py",
        "    if found != FORMAT:", "    if found > FORMAT:",
        growing("a_record_of_another_format_is_refused_by_name"),
    ),
    Mutant(
        "texts: a merge does not order its dictionary", "aggregations/texts.py",
        "self._texts = sorted(", "self._texts = list(",
        worlds("online_records_do_not_depend_on_how_the_log_was_cut"),
    ),
    Mutant(
        "rounding: half away from zero", EXACT, "if half and (rest or mantissa & 1):", "if half:",
        of("properties/test_exact", "test_float_windows_are_exact"),
    ),
    Mutant(
        "null rule: a variance of too few values", KERNEL, "ok = count > freedom", "ok = count >= freedom", laws("var"),
    ),
    Mutant("null rule: share of nothing", KERNEL, "elif code == ANY:\n        ok = count > 0",
           "elif code == ANY:\n        ok = True",
        laws("any")),
    Mutant("null rule: NaN and -0.0", "core/columns.py", "values = column.values + 0.0", "values = column.values",
           of("unit/ingestion/test_publisher")),
    Mutant(
        "as served: the limit itself is below the limit", KERNEL,
        "if offsets >= 0 and i8[offsets + i] >= limits[i8[partitions + i]]:",
        "if offsets >= 0 and i8[offsets + i] > limits[i8[partitions + i]]:", SERVED,
    ),
    Mutant(
        "tie rule: partition and offset before id", "aggregations/records.py",
        "(stamps[i], ids[i], partitions[i], offsets[i])", "(stamps[i], partitions[i], offsets[i], ids[i])",
        (*SPLICES, *TIES),
    ),
    Mutant(
        "fence: a delta that was applied is applied again", "aggregations/splice.py",
        "fresh |= have < positions[p]", "fresh |= have <= positions[p]",
        of("properties/test_splice", "test_a_record_that_reflects_the_first_of_two_commits_takes_in_the_second_alone"),
    ),
    Mutant(
        "fence of table rows", "aggregations/table_splice.py",
        "if orders[row] <= newest:", "if orders[row] < newest:", TABLE_SPLICES,
    ),
    Mutant(
        "cut: events that the as-of horizon needs are folded", "aggregations/records.py",
        "floor_to(delta.clock_us - horizon_us - layout.reach_us,", "floor_to(delta.clock_us,",
        (*SPLICES, *ONLINE),
    ),
    Mutant(
        "cut in the compiled way", "aggregations/splice.py", "cut = clock - about[_REACH]", "cut = clock", SPLICES,
    ),
    Mutant(
        "tiles: an edge falls into a tile", "aggregations/tiles.py",
        "cut = clock - levels[level, LEVEL_AGE]", "cut = clock - levels[level, LEVEL_AGE] + 20",
        tiles("the_strategy_makes_tiles[count of None by None over 480]", "tiles_change_no_value"),
    ),
    Mutant(
        "tiles: a counted row is counted again", KERNEL,
        "folded = flags >= 0 and i8[flags + i] != 0", "folded = False",
        EDGE_OF_TILES,
    ),
    Mutant(
        "tiles: a value that does not fit is folded", "aggregations/tiles.py",
        "or sums[index, 0] + value >= MOST_SUM", "",
        tiles("a_value_that_no_tile_can_sum_stays_an_event"),
    ),
    Mutant(
        "tiles: the last row of a tile is dropped", "aggregations/tiles.py",
        "        if last >= 0:\n            keep[last] = True\n", "",
        EDGE_OF_TILES,
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
        EDGES_OF_TABLES,
    ),
    Mutant(
        "tables: a row counts before it is available", "aggregations/reads.py",
        "if i8[times + row] < t and i8[available + row] < t", "if i8[times + row] < t", TABLES,
    ),
    Mutant(
        "tables: the edge of the ttl", "aggregations/reads.py", "time < t - ttl", "time <= t - ttl", EDGES_OF_TABLES,
    ),
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
        (*DERIVED, *of("unit/app/test_derived")),
    ),
    Mutant(
        "derive: the clock of a derived stream is that of its events alone", "engines/stream/verdicts.py",
        "(codes == OUTSIDE), NULL_US, np.minimum(times, arrivals))", "(codes == OUTSIDE), NULL_US, times)",
        of("unit/app/test_derived"),
    ),
    Mutant(
        "derive: what the stream leaves out moves its clock", "engines/stream/verdicts.py",
        "(codes == DEAD) | (codes == OUTSIDE), NULL_US", "codes == DEAD, NULL_US",
        LEFT_OUT,
    ),
    Mutant(
        "records: the clocks of other partitions are seen in a record", "engines/stream/engine.py",
        "clocks = judged.clocks\n",
        "clocks = np.maximum(judged.clocks, max(s.clock_us for s in states))\n",
        of("unit/app/test_reconciling"),
    ),
    Mutant(
        "reconciliation: events of one time in another order are a difference", "aggregations/records.py",
        "rows[:, np.lexsort(rows[::-1])])", "rows)", of("unit/app/test_reconciling"),
    ),
    Mutant(
        "tables over history: a row at t counts", "aggregations/latest.py",
        "following < stop and times[following] < t:", "following < stop and times[following] <= t:", LATEST,
    ),
    Mutant(
        "tables over history: a row counts before it is available", "aggregations/latest.py",
        "(not late or available[row] < t)", "(not late or available[row] <= t)", LATEST,
    ),
    Mutant(
        "tables over history: the edge of the ttl", "aggregations/latest.py",
        "times[i] >= t - ttl", "times[i] > t - ttl", LATEST,
    ),
    Mutant(
        "tables over history: hidden rows end the search too soon", "aggregations/latest.py",
        "if soonest[i - first] >= t or", "if soonest[i - first] >= t - 50 or", LATEST,
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
        "if flags >= 0 and i8[flags + i] != 0:", "if False:",
        RATES,
    ),
    Mutant(
        "rates: tiles before the window are added", "aggregations/window_rows.py",
        "first_tile = first_at_or_after(i8, tiles, 0, stop_tile, lo)", "first_tile = np.int64(0)",
        RATES,
    ),
    Mutant(
        "data sets: a changed label trains on former truth", "app/datasets.py",
        "if then.label != now.label else", "if False else", of("unit/app/test_training_data"),
    ),
    Mutant(
        "data sets: rows of a sample weigh one each", "orchestration/retraining.py",
        "    weights = None if data.weights is None else data.weights[early]", "    weights = None",
        of("unit/app/test_training_data"),
    ),
    Mutant(
        "labels: a row trains before its wait has passed", "training/dataset.py",
        "done = t + model.label.wait_us <= now_us", "done = t <= now_us",
        (*of("unit/app/test_training_data"), *of("unit/app/test_project"), *of("unit/app/test_datasets")),
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
        "                at,\n                clock_us=served",
        "                committed_positions(parts.features)[stream],\n                clock_us=served",
        BACKFILLS,
    ),
    Mutant(
        "kept: the version to roll back to is let go", "app/kept.py",
        "sorted(live if former is None else live | {former})", "sorted(live)", of("unit/app/test_kept"),
    ),
    Mutant(
        "kept: a challenger's features are shown to the champion", "orchestration/retraining.py",
        "    if view is None:\n        return fitted", "    if True:\n        return fitted",
        of("unit/app/test_kept"),
    ),
)  # fmt: skip
