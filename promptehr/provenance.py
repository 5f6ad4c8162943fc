"""Fingerprints of the code behind an artifact."""


def code(stage: str) -> dict[str, str]:
    """Module name to fingerprint, for every module the stage can import."""
    return {}
