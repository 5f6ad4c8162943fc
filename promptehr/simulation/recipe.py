"""How the simulated cohort depends on people: demographics, conditions, reasons, mixtures, lengths.

Chosen so that the marginals resemble those published for MIMIC-III; no value is estimated from
patient data. Draws nothing at random.
"""

from collections.abc import Mapping

BANDS = (0, 1, 18, 40, 55, 70, 85)  # first year of each age band
BAND_SHARES = (0.169, 0.003, 0.115, 0.175, 0.245, 0.225, 0.068)
FEMALE = (0.46, 0.44, 0.42, 0.38, 0.39, 0.46, 0.60)

# WHITE, BLACK, HISPANIC, ASIAN, OTHER, UNKNOWN
ETHNICITY_SHARES = (0.698, 0.092, 0.036, 0.034, 0.036, 0.104)

# Texts of MIMIC-III within a group, with their approximate admissions.
ETHNICITY_TEXTS: Mapping[str, Mapping[str, int]] = {
    "WHITE": {
        "WHITE": 40996,
        "WHITE - RUSSIAN": 164,
        "WHITE - OTHER EUROPEAN": 81,
        "WHITE - BRAZILIAN": 59,
        "WHITE - EASTERN EUROPEAN": 25,
    },
    "BLACK": {
        "BLACK/AFRICAN AMERICAN": 5440,
        "BLACK/CAPE VERDEAN": 200,
        "BLACK/HAITIAN": 101,
        "BLACK/AFRICAN": 44,
    },
    "HISPANIC": {
        "HISPANIC OR LATINO": 1696,
        "HISPANIC/LATINO - PUERTO RICAN": 232,
        "HISPANIC/LATINO - DOMINICAN": 78,
        "HISPANIC/LATINO - GUATEMALAN": 40,
        "HISPANIC/LATINO - CUBAN": 24,
        "HISPANIC/LATINO - SALVADORAN": 19,
        "HISPANIC/LATINO - CENTRAL AMERICAN (OTHER)": 13,
        "HISPANIC/LATINO - MEXICAN": 13,
        "HISPANIC/LATINO - COLOMBIAN": 9,
        "HISPANIC/LATINO - HONDURAN": 4,
    },
    "ASIAN": {
        "ASIAN": 1509,
        "ASIAN - CHINESE": 277,
        "ASIAN - ASIAN INDIAN": 85,
        "ASIAN - VIETNAMESE": 53,
        "ASIAN - FILIPINO": 25,
        "ASIAN - CAMBODIAN": 17,
        "ASIAN - OTHER": 17,
        "ASIAN - KOREAN": 13,
        "ASIAN - JAPANESE": 7,
        "ASIAN - THAI": 4,
    },
    "OTHER": {
        "OTHER": 1512,
        "PORTUGUESE": 61,
        "MIDDLE EASTERN": 43,
        "SOUTH AMERICAN": 8,
        "MULTI RACE ETHNICITY": 130,
        "AMERICAN INDIAN/ALASKA NATIVE": 51,
        "NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER": 18,
        "CARIBBEAN ISLAND": 9,
        "AMERICAN INDIAN/ALASKA NATIVE FEDERALLY RECOGNIZED TRIBE": 3,
    },
    "UNKNOWN": {"UNKNOWN/NOT SPECIFIED": 4523, "UNABLE TO OBTAIN": 814, "PATIENT DECLINED TO ANSWER": 559},
}

# --- how conditions and reasons depend on people, in logits ------------------------------------

NEVER = -30.0  # a logit whose probability is 1e-13
#          newborn 1-17  18-39 40-54 55-69 70-84 85+
CHRONIC_BY_BAND = (
    (NEVER, -5.0, -2.2, -0.7, 0.1, 0.5, 0.5),  # hypertension
    (NEVER, -4.5, -2.6, -1.6, -1.0, -1.0, -1.4),  # diabetes
    (NEVER, -8.0, -4.0, -1.9, -0.9, -0.5, -0.6),  # coronary disease
    (NEVER, -5.5, -3.7, -2.4, -1.7, -1.1, -0.6),  # heart failure
    (NEVER, -6.0, -4.3, -3.0, -1.9, -1.0, -0.6),  # atrial fibrillation
    (NEVER, -5.5, -3.8, -3.0, -2.5, -2.1, -1.9),  # kidney disease
    (NEVER, -3.5, -3.2, -2.2, -1.6, -1.4, -1.7),  # COPD
)
CHRONIC_FEMALE = (0.0, -0.15, -0.75, 0.0, -0.1, -0.2, 0.0)
CHRONIC_ETHNICITY = (
    (0.0, 0.7, 0.1, 0.0, 0.0, -0.4),
    (0.0, 0.6, 0.8, 0.3, 0.1, -0.3),
    (0.0, -0.7, -0.3, -0.3, 0.0, 0.1),
    (0.0, 0.3, -0.2, -0.3, 0.0, -0.1),
    (0.0, -0.9, -0.8, -0.5, -0.1, 0.1),
    (0.0, 0.9, 0.4, 0.4, 0.0, -0.3),
    (0.0, -0.1, -0.6, -0.8, 0.0, -0.2),
)
# Row: condition; column: earlier condition.
CHRONIC_EARLIER = (
    (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (0.7, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    (0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0),
    (0.1, 0.5, 0.9, 0.0, 0.0, 0.0, 0.0),
    (0.1, 0.0, 0.2, 1.0, 0.0, 0.0, 0.0),
    (0.4, 0.9, 0.3, 0.8, 0.1, 0.0, 0.0),
    (0.0, 0.0, 0.1, 0.7, 0.1, 0.0, 0.0),
)
SWITCH_ON = (0.10, 0.05, 0.06, 0.08, 0.07, 0.07, 0.05)  # between two visits

#   newborn sepsis infarct stroke liver trauma respir. surgery neoplasm overdose post-op
REASON_BY_BAND = (
    (6.0, -4.0, NEVER, -6.0, -5.0, -6.0, -3.5, -5.0, -6.0, NEVER, -5.0),
    (NEVER, 0.0, NEVER, 0.0, -0.3, 1.5, 0.5, 0.0, 0.3, 0.3, 0.0),
    (NEVER, -0.2, -2.0, -0.2, 0.4, 1.2, -0.2, -1.2, -0.3, 1.1, 0.0),
    (NEVER, 0.1, 0.0, 0.2, 0.7, 0.3, 0.1, 0.2, 0.3, 0.4, 0.2),
    (NEVER, 0.2, 0.4, 0.2, 0.3, -0.1, 0.3, 0.9, 0.5, -0.8, 0.3),
    (NEVER, 0.4, 0.4, 0.3, 0.1, 0.0, 0.5, 0.7, 0.2, -2.0, 0.3),
    (NEVER, 0.6, 0.4, 0.4, 0.1, 0.3, 0.7, -0.5, -0.5, -3.0, 0.1),
)
REASON_BY_CHRONIC = (
    (0.0, 0.0, 0.1, 0.3, -0.1, -0.1, 0.0, 0.2, 0.0, -0.1, 0.0),
    (0.0, 0.3, 0.2, 0.0, 0.1, -0.2, 0.0, 0.2, -0.2, -0.2, 0.1),
    (0.0, -0.2, 1.2, -0.1, -0.3, -0.5, 0.0, 1.4, -0.5, -0.8, 0.0),
    (0.0, 0.4, 0.5, -0.3, -0.3, -0.6, 0.9, 0.3, -0.6, -0.6, 0.0),
    (0.0, 0.1, 0.0, 0.5, 0.0, 0.0, 0.2, 0.4, -0.2, -0.6, 0.1),
    (0.0, 0.7, 0.3, 0.0, 0.2, -0.5, 0.2, -0.1, -0.2, -0.3, 0.2),
    (0.0, 0.3, -0.1, -0.3, -0.2, -0.3, 1.4, -0.1, 0.3, 0.1, 0.1),
)
REASON_FEMALE = (0.0, 0.05, -0.2, 0.15, -0.05, -0.3, 0.15, -0.4, 0.05, 0.15, 0.05)

# --- mixtures ----------------------------------------------------------------------------------

# Weights of a code's sources: reason, chronic conditions, general. The rest of 1 is demographic.
FIRST_MIXTURE = (0.85, 0.08, 0.07)
LATER_MIXTURE = (0.36, 0.34, 0.30)
REPEAT_FIRST, REPEAT_LATER = 0.15, 0.42  # share of codes taken from the previous visit

# Share of a code's mixture that a demographic theme takes, by who may have it: sex 0 M, 1 F.
PREGNANCY_BANDS, PREGNANCY_SHARE = (2,), 0.036
FEMALE_BANDS, FEMALE_SHARE = (2, 3, 4, 5, 6), 0.011
MALE_BANDS, MALE_SHARE = (3, 4, 5, 6), 0.013
ETHNICITY_SHARE = {"BLACK": 0.009, "HISPANIC": 0.011, "ASIAN": 0.012}

# --- lengths -----------------------------------------------------------------------------------


def _shares(text: str) -> tuple[float, ...]:
    return tuple(float(share) for share in text.split())


MOST_VISITS = 42
# Share of visits with 1, 2, ... codes; a billing form with nine places makes the spike.
CODES_PER_VISIT = _shares(
    "0.01 0.022 0.032 0.04 0.047 0.053 0.058 0.064 0.185 0.047 0.046 0.045 0.043 0.041 0.038 0.034 "
    "0.031 0.027 0.024 0.021 0.018 0.015 0.013 0.011 0.009 0.008 0.007 0.006 0.005 0.0045 0.004 "
    "0.0035 0.003 0.0026 0.0022 0.0018 0.0015 0.0012 0.003"
)
NEWBORN_CODES_PER_VISIT = _shares(
    "0.06 0.1 0.19 0.13 0.09 0.07 0.06 0.05 0.1 0.03 0.025 0.02 0.015 0.012 0.01 0.008 0.007 0.006 "
    "0.005 0.004 0.004 0.003 0.003 0.002"
)
REVISIT_BY_BAND = (-4.2, -2.15, -1.91, -1.67, -1.65, -1.78, -2.13)
REVISIT_BY_CHRONIC = (0.0, 0.15, 0.1, 0.35, 0.05, 0.4, 0.2)
REVISIT_BY_VISIT = 0.40  # for each earlier visit up to the sixth: those who came back come back again
