"""The default process: which codes belong together, how often, and for whom.

Holds the medical content of the simulated cohort as tables: conditions, reasons for admission,
age, sex and ethnicity effects. Chosen so that the marginals resemble those published for
MIMIC-III; no value is estimated from patient data. Draws nothing at random.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Theme:
    """A distribution over codes: a few frequent ones, and the long tail of some CCS groups.

    Attributes:
        head: Code and its probability.
        tail: CCS single-level groups whose other codes share the rest.
    """

    head: Mapping[str, float]
    tail: tuple[int, ...] = field(default=())


# --- chronic conditions ------------------------------------------------------------------------

CHRONIC: Mapping[str, Theme] = {
    "hypertension": Theme({"4019": 0.72, "2724": 0.10, "2720": 0.06, "V5869": 0.02}, (98, 53, 99)),
    "diabetes": Theme(
        {
            "25000": 0.46,
            "V5867": 0.10,
            "25060": 0.06,
            "3572": 0.06,
            "25040": 0.05,
            "27800": 0.05,
            "25002": 0.04,
        },
        (49, 50, 87, 58),
    ),
    "coronary disease": Theme(
        {"41401": 0.42, "412": 0.09, "V4581": 0.10, "V4582": 0.09, "2724": 0.08, "4139": 0.03, "41400": 0.02},
        (101, 105, 114),
    ),
    "heart failure": Theme(
        {"4280": 0.46, "4240": 0.09, "4254": 0.05, "42833": 0.04, "42823": 0.04, "4168": 0.05, "42832": 0.03},
        (108, 96, 97, 103),
    ),
    "atrial fibrillation": Theme(
        {"42731": 0.62, "V5861": 0.16, "42732": 0.04, "V4501": 0.04, "42789": 0.03}, (106, 105, 237)
    ),
    "kidney disease": Theme(
        {
            "5859": 0.20,
            "40390": 0.18,
            "40391": 0.10,
            "5856": 0.14,
            "V4511": 0.05,
            "28521": 0.08,
            "58881": 0.03,
        },
        (158, 156, 99, 161, 58),
    ),
    "COPD": Theme(
        {"496": 0.44, "3051": 0.13, "V1582": 0.11, "49121": 0.05, "49390": 0.05}, (127, 128, 133, 661)
    ),
}

# --- acute reasons -----------------------------------------------------------------------------

NEWBORN = "newborn"
REASONS: Mapping[str, Theme] = {
    NEWBORN: Theme(
        {
            **{"V3000": 0.13, "V053": 0.15, "V290": 0.14, "V3001": 0.10, "7742": 0.08, "769": 0.03},
            **{"7706": 0.03, "77081": 0.02, "76518": 0.02, "V3101": 0.02, "76528": 0.03, "77931": 0.02},
            **{"7746": 0.02, "V502": 0.05, "7756": 0.02, "76519": 0.01, "7470": 0.01, "76527": 0.02},
        },
        (218, 219, 220, 221, 222, 224, 213, 217),
    ),
    "sepsis": Theme(
        {
            **{"0389": 0.13, "99592": 0.14, "78552": 0.10, "5849": 0.09, "5990": 0.05, "51881": 0.07},
            **{"99591": 0.03, "2762": 0.05, "00845": 0.03, "486": 0.03, "5845": 0.03, "2867": 0.01},
        },
        (2, 3, 159, 157, 249, 55, 62, 4),
    ),
    "infarction": Theme(
        {
            "41071": 0.26,
            "41401": 0.10,
            "78551": 0.06,
            "4275": 0.04,
            "4271": 0.05,
            "41011": 0.05,
            "41041": 0.05,
        },
        (100, 101, 107, 106, 102),
    ),
    "stroke": Theme(
        {"431": 0.13, "430": 0.08, "43491": 0.08, "34830": 0.03, "78039": 0.05, "3485": 0.06, "34290": 0.04},
        (109, 110, 111, 82, 83, 85, 95, 653),
    ),
    "liver and bowel": Theme(
        {
            **{"5789": 0.08, "5712": 0.06, "2851": 0.09, "5715": 0.05, "5722": 0.05, "5723": 0.04},
            **{"30391": 0.03, "07054": 0.04, "53081": 0.04, "5770": 0.05, "2875": 0.04, "78959": 0.03},
        },
        (153, 151, 152, 149, 145, 148, 139, 155, 146, 138, 6, 660),
    ),
    "trauma": Theme(
        {"E8859": 0.04, "E8120": 0.03, "8730": 0.02, "8054": 0.02, "E8809": 0.03, "8600": 0.02, "2851": 0.04},
        (233, 234, 231, 228, 229, 230, 235, 236, 227, 239, 226, 2603, 2607, 2610, 2621),
    ),
    "respiratory": Theme(
        {
            **{"51881": 0.17, "486": 0.11, "5070": 0.08, "5119": 0.05, "49121": 0.05, "5180": 0.05},
            **{"2760": 0.03, "48241": 0.02, "51884": 0.03, "4821": 0.02},
        },
        (122, 131, 129, 130, 133, 127, 125, 134),
    ),
    "cardiac surgery": Theme(
        {
            "41401": 0.17,
            "4241": 0.12,
            "4240": 0.08,
            "4111": 0.07,
            "42731": 0.07,
            "9971": 0.05,
            "2851": 0.04,
            "4414": 0.03,
        },
        (96, 101, 115, 105, 106, 238, 117),
    ),
    "neoplasm": Theme(
        {"1983": 0.06, "1977": 0.04, "1985": 0.05, "1970": 0.04, "1623": 0.03, "20280": 0.02, "28800": 0.03},
        (42, 19, 14, 16, 17, 38, 39, 35, 13, 33, 32, 40, 41, 47, 18, 45, 63),
    ),
    "overdose": Theme(
        {
            "30500": 0.06,
            "311": 0.07,
            "30501": 0.03,
            "9694": 0.05,
            "E9500": 0.03,
            "E9503": 0.04,
            "30590": 0.04,
            "2920": 0.02,
        },
        (241, 242, 660, 661, 657, 662, 659, 651, 2613, 658),
    ),
    "post-operative": Theme(
        {
            "99859": 0.06,
            "99731": 0.03,
            "99749": 0.03,
            "99811": 0.04,
            "56081": 0.03,
            "V440": 0.02,
            "5601": 0.04,
            "99799": 0.02,
        },
        (238, 237, 145, 143, 14, 148, 154, 203, 205),
    ),
}

# --- what anybody may have ---------------------------------------------------------------------

# Of all codes but those of one sex or of the perinatal period.
GENERAL = Theme(
    {
        **{
            "53081": 0.028,
            "2859": 0.026,
            "2449": 0.024,
            "2724": 0.022,
            "5990": 0.022,
            "2851": 0.020,
            "5849": 0.020,
        },
        **{
            "311": 0.016,
            "2875": 0.014,
            "2761": 0.014,
            "4019": 0.014,
            "V1582": 0.012,
            "5119": 0.012,
            "2762": 0.012,
        },
        **{
            "73300": 0.011,
            "2767": 0.010,
            "2768": 0.010,
            "5180": 0.010,
            "4589": 0.010,
            "V5866": 0.009,
            "30000": 0.009,
        },
        **{
            "2720": 0.008,
            "7907": 0.008,
            "E8788": 0.008,
            "27651": 0.008,
            "4241": 0.008,
            "2930": 0.007,
            "71590": 0.007,
        },
        **{
            "70703": 0.007,
            "4439": 0.007,
            "27800": 0.007,
            "2749": 0.007,
            "34590": 0.006,
            "V1251": 0.006,
            "V4986": 0.006,
        },
        **{
            "E8497": 0.006,
            "V1254": 0.005,
            "42789": 0.005,
            "2800": 0.005,
            "78039": 0.005,
            "07054": 0.005,
            "5601": 0.005,
        },
    },
)
PERINATAL_GENERAL = Theme(
    {
        "V053": 0.20,
        "V290": 0.19,
        "7742": 0.09,
        "V502": 0.06,
        "76528": 0.03,
        "7706": 0.03,
        "77931": 0.02,
        "V7219": 0.02,
    },
    (218, 219, 222, 224, 213, 214, 215, 217, 10),
)

# --- sex and ethnicity -------------------------------------------------------------------------

PREGNANCY_TAIL = (181, 182, 183, 184, 187, 189, 190, 191, 195, 196, 186, 180)
DEMOGRAPHIC: Mapping[str, Theme] = {
    "pregnancy": Theme(
        {"V270": 0.14, "64891": 0.08, "66612": 0.05, "64821": 0.07, "65421": 0.04}, PREGNANCY_TAIL
    ),
    "female": Theme(
        {"V103": 0.24, "1749": 0.12, "2189": 0.05, "6271": 0.02, "V1042": 0.03},
        (24, 25, 26, 27, 28, 168, 170, 175, 46),
    ),
    "male": Theme(
        {"60000": 0.34, "V1046": 0.21, "185": 0.13, "60001": 0.06, "6019": 0.01}, (29, 30, 31, 164, 165, 166)
    ),
    "black": Theme(
        {"28260": 0.10, "042": 0.28, "28262": 0.05, "2825": 0.02, "135": 0.12, "7010": 0.03}, (61, 5)
    ),
    "hispanic": Theme({"07070": 0.15, "5718": 0.14, "V1201": 0.06, "5750": 0.08, "27801": 0.10}, (149, 6)),
    "asian": Theme({"07030": 0.18, "07032": 0.24, "1550": 0.15, "01190": 0.06, "V0261": 0.12}, (1, 16, 6)),
}

SEX_OR_PERINATAL_GROUPS = frozenset(
    (*range(24, 32), 46, *range(164, 197), *range(218, 225))  # 167 is breast: mostly of women
)

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
        "PORTUGUESE": 61,
        "WHITE - BRAZILIAN": 59,
        "MIDDLE EASTERN": 43,
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
        "SOUTH AMERICAN": 8,
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
    (NEVER, -5.5, -4.0, -2.8, -2.1, -1.5, -1.0),  # heart failure
    (NEVER, -6.0, -4.6, -3.3, -2.2, -1.3, -0.9),  # atrial fibrillation
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

MOST_CODES, MOST_VISITS = 39, 42
# Share of visits with 1, 2, ... codes; a billing form with nine places makes the spike.
CODES_PER_VISIT = (
    *(
        0.010,
        0.022,
        0.032,
        0.040,
        0.047,
        0.053,
        0.058,
        0.064,
        0.185,
        0.047,
        0.046,
        0.045,
        0.043,
        0.041,
        0.038,
    ),
    *(
        0.034,
        0.031,
        0.027,
        0.024,
        0.021,
        0.018,
        0.015,
        0.013,
        0.011,
        0.009,
        0.008,
        0.007,
        0.006,
        0.005,
        0.0045,
    ),
    *(0.004, 0.0035, 0.003, 0.0026, 0.0022, 0.0018, 0.0015, 0.0012, 0.0030),
)
NEWBORN_CODES_PER_VISIT = (
    *(0.06, 0.10, 0.19, 0.13, 0.09, 0.07, 0.06, 0.05, 0.10, 0.03, 0.025, 0.02, 0.015, 0.012, 0.01),
    *(0.008, 0.007, 0.006, 0.005, 0.004, 0.004, 0.003, 0.003, 0.002),
)
REVISIT_BY_BAND = (-4.2, -2.1, -1.85, -1.6, -1.57, -1.7, -2.05)
REVISIT_BY_CHRONIC = (0.0, 0.15, 0.1, 0.35, 0.05, 0.4, 0.2)
REVISIT_BY_VISIT = 0.40  # for each earlier visit up to the sixth: those who came back come back again
