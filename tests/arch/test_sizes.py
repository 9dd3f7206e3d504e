"""The size budget: modules stay small enough to be read at one sitting."""

from __future__ import annotations

from pathlib import Path

from tools.check_sizes import over_budget


def test_no_module_is_over_the_budget() -> None:
    assert [line for line in over_budget() if "split it by noun" in line] == []


def test_the_check_sees_long_modules_and_functions(tmp_path: Path) -> None:
    source = tmp_path / "pkg"
    source.mkdir()
    body = "".join(f"    x = {i}\n" for i in range(700))
    (source / "big.py").write_text(f"def long():\n{body}", encoding="utf-8")
    found = "\n".join(over_budget(source))
    assert "big.py: 701 lines" in found
    assert "big.py:1 long: 701 lines" in found
    assert "the median module" in found


def test_docstrings_do_not_count(tmp_path: Path) -> None:
    source = tmp_path / "pkg"
    source.mkdir()
    text = "\n".join(["    line"] * 80)
    (source / "told.py").write_text(f'def told():\n    """\n{text}\n    """\n    return 1\n', encoding="utf-8")
    assert over_budget(source) == []
