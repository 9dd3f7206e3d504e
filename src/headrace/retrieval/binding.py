"""How a view is read: its bindings as tables for the kernel, and where each column comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace.aggregations.aggregation import Composed
from headrace.aggregations.layout import GroupLayout, Scratch, layout_of
from headrace.aggregations.reads import group_binding
from headrace.aggregations.registry import aggregation
from headrace.core.columns import BoolArray, Column, IntArray
from headrace.core.keys import entity_encoder
from headrace.core.schema import DType
from headrace.features.nodes import ColumnRef, Node, replaced
from headrace.features.plan import Binding, GroupPlan, ProjectPlan, TablePlan, ViewColumn, ViewPlan
from headrace.features.program import Program
from headrace.retrieval.arithmetic import Arithmetic
from headrace.retrieval.rows import FeatureBlock


@dataclass(frozen=True, slots=True)
class BoundSource:
    """One binding resolved: what it reads, where its slots begin, and how its keys are encoded."""

    binding: Binding
    group: GroupPlan | None
    table: TablePlan | None
    layout: GroupLayout | None
    slot: int
    width: int
    encode: Callable[[tuple[Any, ...]], bytes]
    version: str
    key_dtypes: tuple[DType, ...]

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of features that are not 8-byte words."""
        if self.layout is not None:
            return self.layout.objects
        assert self.table is not None
        return tuple(f.name for f in self.table.features if f.dtype.is_object)


class BoundView:
    """A view resolved against its project; shared by online and historical reads.

    `slots` is the number of words that the kernel writes per row. `assemble` turns those words and the request into
    the view's columns, evaluating features of features and on-request features on the way.
    """

    def __init__(self, view: ViewPlan, project: ProjectPlan) -> None:
        self.view = view
        self.sources: list[BoundSource] = []
        slot = 0
        for binding in view.bindings:
            source = _bind(binding, project, slot)
            self.sources.append(source)
            slot += source.width
        self.slots = slot
        self.max_windows = max((s.layout.windows.shape[0] for s in self.sources if s.layout is not None), default=1)
        self._tables()
        self._columns()
        self.request_fields = {field.name: field for field in view.request.fields}

    def _tables(self) -> None:
        lanes, windows, features, pointers, rows = [], [], [], [], []
        at = [0, 0, 0]
        for source in self.sources:
            layout = source.layout
            if layout is None:
                table = source.table
                assert table is not None
                ttl = -1 if table.ttl_us is None else table.ttl_us
                rows.append([1, 0, 0, 0, 0, 0, 0, 0, source.width, source.slot, ttl, 0, 0, -1, 0])
                continue
            sizes = (len(layout.lanes), len(layout.windows), len(layout.features))
            spans = [edge for start, size in zip(at, sizes, strict=True) for edge in (start, start + size)]
            rows.append(group_binding(layout, spans, source.slot))
            lanes.append(layout.lanes)
            windows.append(layout.windows)
            features.append(layout.online_features)
            wide = np.zeros((sizes[0], self.max_windows + 1), np.int64)
            wide[:, : sizes[1] + 1] = layout.pointers
            wide[:, sizes[1] + 1 :] = layout.pointers[:, -1:]
            pointers.append(wide)
            at = [start + size for start, size in zip(at, sizes, strict=True)]
        self.bindings: IntArray = np.array(rows, np.int64).reshape(-1, 15)
        self.lanes = _stacked(lanes, 7)
        self.windows = _stacked(windows, 4)
        self.features = _stacked(features, 5)
        self.pointers = _stacked(pointers, self.max_windows + 1)

    def _columns(self) -> None:
        """Where each visible column is found: a slot that is copied, or a register of the program."""
        visible = self.view.visible
        self.names = tuple(column.name for column in visible)
        self.dtypes = tuple(column.dtype for column in visible)
        self._names = _Names(self)
        slots = [self._names.slot(column) for column in visible]
        # Most visible columns are copied from slots in one step; the others are overwritten afterwards.
        self._copied = np.array([slot or 0 for slot in slots], np.int64)
        self._arithmetic = Arithmetic()
        self._others = [
            (index, column, self._names.register(column.name))
            for index, (column, slot) in enumerate(zip(visible, slots, strict=True))
            if slot is None and not self._arithmetic.add(index, self._names.flat(column.name))
        ]
        self._whole = slots == list(range(self.slots))
        self._loaded = np.array(list(self._names.slots), np.int64)
        self._loads = [(register, dtype) for register, dtype in self._names.slots.values()]

    def asks_for_objects(self, source: BoundSource) -> bool:
        """True if some column is made of a feature of this source that is no word."""
        return any(self.sources[binding] is source for binding, _ in self._names.objects)

    def scratch(self) -> Scratch:
        """Working memory for one thread."""
        return Scratch(self.max_windows)

    def entities(self, source: BoundSource, request: Mapping[str, Column]) -> list[bytes | None]:
        """Entity bytes of each request row; None where a part of the key is null."""
        if not source.binding.request_keys:
            return [b""] * len(next(iter(request.values())))
        lists = [request[name].to_pylist() for name in source.binding.request_keys]
        encode = source.encode
        return [None if None in parts else encode(parts) for parts in zip(*lists, strict=True)]

    def assemble(
        self,
        request: Mapping[str, Column],
        words: IntArray,
        valid: BoolArray,
        objects: Callable[[int, int, DType], Column],
    ) -> FeatureBlock:
        """Build the visible columns; `objects(binding, index, dtype)` fetches values that are no words."""
        if self._whole:
            return FeatureBlock(self.names, self.dtypes, words, valid)
        if self.slots and not words.flags.c_contiguous:
            out, out_valid = words.T.take(self._copied, axis=0).T, valid.T.take(self._copied, axis=0).T
        elif self.slots:
            out, out_valid = words.take(self._copied, axis=1), valid.take(self._copied, axis=1)
        else:
            out = np.zeros((len(words), len(self.names)), np.int64)
            out_valid = np.zeros(out.shape, np.bool_)
        block = FeatureBlock(self.names, self.dtypes, out, out_valid)
        if self._arithmetic:
            self._arithmetic.run(words, valid, out, out_valid)
        if self._others:
            self._fill(block, *self._evaluate(request, words, valid, objects))
        return block

    def _evaluate(
        self,
        request: Mapping[str, Column],
        words: IntArray,
        valid: BoolArray,
        objects: Callable[[int, int, DType], Column],
    ) -> tuple[list[Any], list[BoolArray | None]]:
        names = self._names
        values: list[Any] = [None] * names.program.registers
        masks: list[BoolArray | None] = [None] * names.program.registers
        if self._loads:
            whole = np.ascontiguousarray(words.take(self._loaded, axis=1).T)
            present = np.ascontiguousarray(valid.take(self._loaded, axis=1).T)
            complete: list[bool] = np.logical_and.reduce(present, axis=1).tolist()
            floats = whole.view(np.float64)
            for row, (register, dtype) in enumerate(self._loads):
                values[register] = floats[row] if dtype is DType.FLOAT else whole[row]
                if dtype is DType.BOOL:
                    values[register] = whole[row].astype(np.bool_)
                if not complete[row]:
                    masks[register] = present[row]
        for name, register in names.requests.items():
            column = request[name]
            values[register], masks[register] = column.values, column.valid
        for (binding, index), (register, dtype) in names.objects.items():
            column = objects(binding, index, dtype)
            values[register], masks[register] = column.values, column.valid
        names.program.run(values, masks, len(words))
        return values, masks

    def _fill(self, block: FeatureBlock, values: list[Any], masks: list[BoolArray | None]) -> None:
        """Write the columns that are no copies."""
        out, out_valid = block.words, block.valid
        floats = out.view(np.float64)
        for index, column, register in self._others:
            value, mask = values[register], masks[register]
            out_valid[:, index] = True if mask is None else mask
            if column.dtype.is_object:
                out[:, index] = 0
                block.objects[column.name] = Column(column.dtype, value, mask)
            else:
                target = floats if column.dtype is DType.FLOAT else out
                target[:, index] = value if mask is None else np.where(mask, value, 0)


class _Names:
    """Gives each name of a view, and of the groups in it, the register that holds its column.

    What is asked for gets a register and, if it is computed, steps of the program; the rest costs nothing.

    Attributes:
        slots: register and type by slot.
        objects: register and type by (binding, index) of a value that is no word.
        requests: register by request field.
    """

    def __init__(self, bound: BoundView) -> None:
        self.program = Program()
        self.slots: dict[int, tuple[int, DType]] = {}
        self.objects: dict[tuple[int, int], tuple[int, DType]] = {}
        self.requests: dict[str, int] = {}
        self._sources = bound.sources
        self._columns = {column.name: column for column in bound.view.columns}
        self._found: dict[str | tuple[int, str], int] = {}

    def slot(self, column: ViewColumn) -> int | None:
        """The slot of a column that is one."""
        if column.binding is None or column.feature is None:
            return None
        return _slot(self._sources[column.binding], column.feature)

    def flat(self, name: str) -> Node | None:
        """The expression of a column over slots, named by their numbers; None if it reads anything else."""
        column = self._columns.get(name)
        if column is None:
            return None
        if column.binding is not None and column.feature is not None:
            return self._flat_feature(column.binding, column.feature)
        return None if column.node is None else replaced(column.node, self.flat)

    def _flat_feature(self, binding: int, feature: str) -> Node | None:
        source = self._sources[binding]
        slot = _slot(source, feature)
        if slot is not None:
            return ColumnRef(str(slot), _dtype(source, feature))
        if source.group is None:
            return None
        nodes = [derived.node for derived in source.group.derived if derived.name == feature]
        return replaced(nodes[0], lambda name: self._flat_feature(binding, name)) if nodes else None

    def register(self, name: str) -> int:
        """The register of a column of the view, or of a request field."""
        if name not in self._found:
            self._found[name] = self._register(name)
        return self._found[name]

    def _register(self, name: str) -> int:
        column = self._columns.get(name)
        if column is not None and column.binding is not None and column.feature is not None:
            return self._feature(column.binding, column.feature, column.dtype)
        if column is not None and column.node is not None:
            return self.program.add(column.node, self.register)
        if name not in self.requests:
            self.requests[name] = self.program.reserve()
        return self.requests[name]

    def _feature(self, binding: int, feature: str, dtype: DType) -> int:
        source = self._sources[binding]
        slot = _slot(source, feature)
        if slot is not None:
            if slot not in self.slots:
                self.slots[slot] = (self.program.reserve(), dtype)
            return self.slots[slot][0]
        if feature in source.objects:
            place = (binding, source.objects.index(feature))
            if place not in self.objects:
                self.objects[place] = (self.program.reserve(), dtype)
            return self.objects[place][0]
        if source.layout is not None and feature in source.layout.composed:
            return self._composed(binding, feature, source.layout)
        return self._derived(binding, feature)

    def _composed(self, binding: int, feature: str, layout: GroupLayout) -> int:
        """An aggregation that is made of the slots of others."""
        place = (binding, feature)
        if place not in self._found:
            group = self._sources[binding].group
            assert group is not None
            spec = next(spec for spec in group.aggregates if spec.name == feature)
            kind = aggregation(spec.kind)
            assert isinstance(kind, Composed)
            dtypes = dict(zip(layout.names, layout.dtypes, strict=True))
            parts = [self._feature(binding, name, dtypes[name]) for name in layout.composed[feature]]
            self._found[place] = self.program.finish(kind, dict(spec.params), parts)
        return self._found[place]

    def _derived(self, binding: int, feature: str) -> int:
        """A feature of features; its expression reads the group's own names."""
        place = (binding, feature)
        if place not in self._found:
            source = self._sources[binding]
            assert source.group is not None
            assert source.layout is not None
            dtypes = {spec.name: spec.dtype for spec in source.group.aggregates}
            node = next(derived.node for derived in source.group.derived if derived.name == feature)

            def local(name: str) -> int:
                return self._feature(binding, name, dtypes[name]) if name in dtypes else self._derived(binding, name)

            self._found[place] = self.program.add(node, local)
        return self._found[place]


def _bind(binding: Binding, project: ProjectPlan, slot: int) -> BoundSource:
    if binding.is_table:
        table = project.tables[binding.source]
        dtypes = tuple(part.dtype for part in table.key)
        return BoundSource(
            binding, None, table, None, slot, len(table.features), entity_encoder(dtypes), table.version, dtypes
        )
    group = project.group(binding.source)
    layout = layout_of(group)
    dtypes = tuple(part.dtype for part in group.key)
    return BoundSource(
        binding, group, None, layout, slot, len(layout.names), entity_encoder(dtypes), group.version, dtypes
    )


def _dtype(source: BoundSource, feature: str) -> DType:
    if source.layout is not None:
        return source.layout.dtypes[source.layout.names.index(feature)]
    assert source.table is not None
    return next(field.dtype for field in source.table.features if field.name == feature)


def _slot(source: BoundSource, feature: str) -> int | None:
    if source.layout is not None:
        names = source.layout.names
        return source.slot + names.index(feature) if feature in names and feature not in source.objects else None
    assert source.table is not None
    for index, field in enumerate(source.table.features):
        if field.name == feature and not field.dtype.is_object:
            return source.slot + index
    return None


def _stacked(parts: list[IntArray], width: int) -> IntArray:
    return np.concatenate(parts) if parts else np.zeros((0, width), np.int64)
