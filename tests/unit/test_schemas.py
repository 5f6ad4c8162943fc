"""The contracts agree with each other and with the ids of tokens."""

import pytest

from promptehr import schemas
from promptehr.tokens import ETHNICITIES, GENDERS


@pytest.mark.parametrize("table", schemas.TABLES, ids=lambda table: table.name)
def test_sorting_and_uniqueness_name_columns_of_the_table(table: schemas.Table) -> None:
    names = [column.name for column in table.columns]
    assert len(set(names)) == len(names)
    assert {*table.sorted_by, *table.unique} <= set(names)
    assert all(column.meaning for column in table.columns)


def test_names_are_unique() -> None:
    names = [contract.name for contract in (*schemas.TABLES, *schemas.DOCUMENTS)]
    assert len(set(names)) == len(names)


def test_synthetic_differs_from_records_only_in_visit_days() -> None:
    pairs = zip(schemas.RECORDS.columns, schemas.SYNTHETIC.columns, strict=True)
    assert [real.name for real, synthetic in pairs if real != synthetic] == ["visit_days"]


def test_ids_are_spelt_out_as_tokens_has_them() -> None:
    meanings = {column.name: column.meaning for column in schemas.SHARD.columns}
    assert meanings["gender_id"] == ", ".join(f"{i} {name}" for i, name in enumerate(GENDERS))
    assert meanings["ethnicity_id"] == ", ".join(f"{i} {name}" for i, name in enumerate(ETHNICITIES))
