"""Patients to places in [0, 1) by a hash that knows nothing but a salt and the patient's id.

A patient keeps its place when others come or go, whatever the order of rows.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def places(salt: str, subject_ids: Iterable[int]) -> npt.NDArray[np.float64]:
    """The place of each patient: first 8 bytes of BLAKE2b(`salt:subject_id`), big-endian, over 2^64.

    The lowest 11 of the 64 bits are dropped, so that every place is an exact double below 1.
    """
    prefix = f"{salt}:"
    # The 64-byte digest, not `digest_size=8`: BLAKE2b mixes the size into the hash.
    hashes = b"".join(hashlib.blake2b(f"{prefix}{i}".encode()).digest()[:8] for i in subject_ids)
    return (np.frombuffer(hashes, ">u8") >> np.uint64(11)).astype(np.float64) / 2.0**53
