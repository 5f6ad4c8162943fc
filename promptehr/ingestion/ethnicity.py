"""The source's ethnicity texts to the six groups of the contract, by an explicit table.

Knows texts only; which admission of a patient decides is `stages/records`' business.
"""

from collections.abc import Mapping
from types import MappingProxyType

import polars as pl

# The 41 texts of MIMIC-III v1.4, the 33 of MIMIC-IV v2 and v3 (27 of them the same) and the one more
# of its v1. A text goes to the group it names; places of birth that name no
# group (PORTUGUESE, SOUTH AMERICAN, CARIBBEAN ISLAND, MIDDLE EASTERN) go to OTHER.
GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "WHITE": "WHITE",
        "WHITE - BRAZILIAN": "WHITE",
        "WHITE - EASTERN EUROPEAN": "WHITE",
        "WHITE - OTHER EUROPEAN": "WHITE",
        "WHITE - RUSSIAN": "WHITE",
        "BLACK/AFRICAN": "BLACK",
        "BLACK/AFRICAN AMERICAN": "BLACK",
        "BLACK/CAPE VERDEAN": "BLACK",
        "BLACK/CARIBBEAN ISLAND": "BLACK",
        "BLACK/HAITIAN": "BLACK",
        "HISPANIC OR LATINO": "HISPANIC",
        "HISPANIC/LATINO": "HISPANIC",
        "HISPANIC/LATINO - CENTRAL AMERICAN": "HISPANIC",
        "HISPANIC/LATINO - CENTRAL AMERICAN (OTHER)": "HISPANIC",
        "HISPANIC/LATINO - COLOMBIAN": "HISPANIC",
        "HISPANIC/LATINO - COLUMBIAN": "HISPANIC",  # as MIMIC-IV spells it
        "HISPANIC/LATINO - CUBAN": "HISPANIC",
        "HISPANIC/LATINO - DOMINICAN": "HISPANIC",
        "HISPANIC/LATINO - GUATEMALAN": "HISPANIC",
        "HISPANIC/LATINO - HONDURAN": "HISPANIC",
        "HISPANIC/LATINO - MEXICAN": "HISPANIC",
        "HISPANIC/LATINO - PUERTO RICAN": "HISPANIC",
        "HISPANIC/LATINO - SALVADORAN": "HISPANIC",
        "ASIAN": "ASIAN",
        "ASIAN - ASIAN INDIAN": "ASIAN",
        "ASIAN - CAMBODIAN": "ASIAN",
        "ASIAN - CHINESE": "ASIAN",
        "ASIAN - FILIPINO": "ASIAN",
        "ASIAN - JAPANESE": "ASIAN",
        "ASIAN - KOREAN": "ASIAN",
        "ASIAN - OTHER": "ASIAN",
        "ASIAN - SOUTH EAST ASIAN": "ASIAN",
        "ASIAN - THAI": "ASIAN",
        "ASIAN - VIETNAMESE": "ASIAN",
        "AMERICAN INDIAN/ALASKA NATIVE": "OTHER",
        "AMERICAN INDIAN/ALASKA NATIVE FEDERALLY RECOGNIZED TRIBE": "OTHER",
        "CARIBBEAN ISLAND": "OTHER",
        "MIDDLE EASTERN": "OTHER",
        "MULTI RACE ETHNICITY": "OTHER",
        "MULTIPLE RACE/ETHNICITY": "OTHER",
        "NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER": "OTHER",
        "OTHER": "OTHER",
        "PORTUGUESE": "OTHER",
        "SOUTH AMERICAN": "OTHER",
        "PATIENT DECLINED TO ANSWER": "UNKNOWN",
        "UNABLE TO OBTAIN": "UNKNOWN",
        "UNKNOWN": "UNKNOWN",
        "UNKNOWN/NOT SPECIFIED": "UNKNOWN",
    }
)


def tidy(column: str) -> pl.Expr:
    """The texts as the table writes them: upper case, single spaces."""
    return pl.col(column).str.strip_chars().str.to_uppercase().str.replace_all(r"\s+", " ")
