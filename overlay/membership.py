"""Temporary."""

from overlay.swim import *
from overlay.swim import __all__ as _a
from overlay.membership_messages import *
from overlay.knobs import Knobs
from overlay.beliefs import EPOCH_SHIFT, Counters
from overlay.swim import Membership, MemberState, Change, Effects


def incarnation_of(epoch: float) -> int:
    return int(epoch * 1000) << EPOCH_SHIFT
