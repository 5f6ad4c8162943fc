"""docs/artifacts.md follows from the contracts."""

from pathlib import Path

import pytest

from promptehr import reference, schemas

ROOT = Path(__file__).parent.parent.parent


def test_page_is_what_the_contracts_give() -> None:
    assert (ROOT / reference.PAGE).read_text("utf-8") == reference.page()


def test_page_names_every_column_and_document() -> None:
    page = reference.page()
    columns = [column.name for table in schemas.TABLES for column in table.columns]
    assert [name for name in columns if f"| `{name}` |" not in page] == []
    assert [d.name for d in schemas.DOCUMENTS if f"### `{d.name}` version {d.version}\n" not in page] == []


def test_check_tells_a_stale_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    assert reference.main(["--check"]) == 1
    assert capsys.readouterr().err == (
        "docs/artifacts.md is not what the contracts give; run: make generated\n"
    )
    assert (reference.main([]), reference.main(["--check"])) == (0, 0)
