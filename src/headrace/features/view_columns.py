"""The bindings and columns of a view as they are put together, each column after all that it reads.

Views, derived streams and reads of one group by its key are all made here. A feature of features that reads another
group becomes a computed column over hidden ones, with the other group bound by the same key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from headrace.core.schema import DType
from headrace.features.nodes import ColumnRef, Node, references, renamed
from headrace.features.plan import Binding, DerivedSpec, FeatureRead, GroupPlan, TablePlan, ViewColumn
from headrace.features.version import digest, node_content


class ViewColumns:
    """Collects what a view reads.

    Attributes:
        bindings: what is looked up, each (source, key) once.
        columns: columns by name.
        versions: hash of what each column is, by its name.
    """

    def __init__(
        self,
        groups: Mapping[str, GroupPlan],
        tables: Mapping[str, TablePlan],
        first_names: Mapping[str, str],
    ) -> None:
        self._groups, self._features = groups, feature_versions(groups, tables)
        self._first_names = first_names
        self.bindings: list[Binding] = []
        self.columns: dict[str, ViewColumn] = {}
        self.versions: dict[str, str] = {}

    def feature(
        self, stem: str, binding: Binding, feature: str, dtype: DType, doc: str = "", *, any_prefix: bool = False
    ) -> ColumnRef:
        """The column `stem` + `feature`: a feature of the group or table that `binding` looks up.

        `any_prefix`: a binding of the same source and key under another prefix will do.
        """
        name = stem + feature
        if name not in self.columns:
            spec = None if binding.is_table else self._reading(self._groups[binding.source], feature)
            if spec is not None:
                self._compute(stem, binding, spec, doc)
            else:
                index = self._bound(binding, any_prefix)
                version = digest(
                    [
                        self._features[binding.source, feature],
                        [self._first_names.get(key, key) for key in binding.request_keys],
                    ]
                )
                self.keep(ViewColumn(name, dtype, "feature", index, feature, doc=doc), version)
        return ColumnRef(name, dtype)

    def computed(self, name: str, node: Node, dtype: DType, *, calendar: bool = False, doc: str = "") -> ColumnRef:
        """The column `name`: `node` over columns that are there already."""
        if name not in self.columns:
            version = digest(node_content(node, self.versions))
            self.keep(ViewColumn(name, dtype, "computed", node=node, calendar=calendar, doc=doc), version)
        return ColumnRef(name, dtype)

    def keep(self, column: ViewColumn, version: str) -> None:
        """Take in a column."""
        self.columns[column.name] = column
        self.versions[column.name] = version

    def _bound(self, binding: Binding, any_prefix: bool) -> int:
        for index, other in enumerate(self.bindings):
            same = (other.source, other.is_table, other.request_keys) == (
                binding.source,
                binding.is_table,
                binding.request_keys,
            )
            if same and (any_prefix or other.prefix == binding.prefix):
                return index
        self.bindings.append(binding)
        return len(self.bindings) - 1

    def _reading(self, group: GroupPlan, feature: str) -> DerivedSpec | None:
        """The feature of features of this name if it, or one that it is made of, reads another group or a table."""
        by_name = {spec.name: spec for spec in group.derived}
        spec = by_name.get(feature)
        if spec is None or spec.reads:
            return spec
        inner = [name for name in references(spec.node) if name in by_name]
        return spec if any(self._reading(group, name) is not None for name in inner) else None

    def _compute(self, stem: str, binding: Binding, spec: DerivedSpec, doc: str) -> None:
        group = self._groups[binding.source]
        dtypes = group.dtypes
        reads = {read.name: read for read in spec.reads}
        names = {}
        for local in sorted(references(spec.node)):
            if local in reads:
                names[local] = self._read(reads[local], group, binding).name
            else:
                names[local] = self.feature(stem, binding, local, dtypes[local]).name
        self.computed(stem + spec.name, renamed(spec.node, names), spec.dtype, doc=doc)

    def _read(self, read: FeatureRead, group: GroupPlan, binding: Binding) -> ColumnRef:
        parts = [part.name for part in group.key]
        keys = tuple(binding.request_keys[parts.index(key)] for key in read.keys)
        prefix = "_" + "".join(f"{key}__" for key in keys)
        other = Binding(read.source, read.is_table, prefix, keys)
        return self.feature(f"{prefix}{read.source}__", other, read.feature, read.dtype, any_prefix=True)


def source_columns(
    source: str,
    is_table: bool,
    features: Sequence[tuple[str, DType]],
    keys: tuple[str, ...],
    groups: Mapping[str, GroupPlan],
    tables: Mapping[str, TablePlan],
) -> tuple[tuple[Binding, ...], tuple[ViewColumn, ...]]:
    """Bindings and columns of a view of these features of one group or table, which keep their own names.

    `keys` are the request fields that hold its key. What is read only to compute a feature is hidden.
    """
    found = ViewColumns(groups, tables, {})
    binding = Binding(source, is_table, "", keys)
    for feature, dtype in features:
        found.feature("", binding, feature, dtype)
    listed = {feature for feature, _ in features}
    return tuple(found.bindings), hidden_except(found.columns, listed)


def hidden_except(columns: Mapping[str, ViewColumn], listed: set[str]) -> tuple[ViewColumn, ...]:
    """The columns, those that are not listed hidden."""
    return tuple(
        ViewColumn(
            column.name, column.dtype, column.origin, column.binding, column.feature, column.node,
            column.name not in listed, column.calendar, column.doc,
        )
        for column in columns.values()
    )  # fmt: skip


def feature_versions(groups: Mapping[str, GroupPlan], tables: Mapping[str, TablePlan]) -> dict[tuple[str, str], str]:
    """Versions by (group or table, local feature name)."""
    found = {}
    for group in groups.values():
        found.update({(group.name, spec.name): spec.version for spec in group.aggregates})
        found.update({(group.name, spec.name): spec.version for spec in group.derived})
    for table in tables.values():
        for field in table.features:
            found[table.name, field.name] = digest([table.version, field.name])
    return found
