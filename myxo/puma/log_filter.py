"""Which requests are logged, as the filters of Envoy's access log say it.

    {"status_code_filter": {"comparison": {"op": "GE", "value": {"default_value": 400}}}}
    {"duration_filter": {"comparison": {"op": "GE", "value": 250}}}            milliseconds
    {"and_filter": {"filters": [...]}}, {"or_filter": {"filters": [...]}}

Pure: a line of the proxy's access log in, a word out.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from myxo.puma.keys import Keys

MOST_FILTERS = 100


def _value(written: Any) -> Any:
    return written.get("default_value") if isinstance(written, Mapping) else written


class Comparison(Keys):
    """A number is equal to, at least or at most a value."""

    op: Literal["EQ", "GE", "LE"] = "EQ"
    value: Annotated[float, BeforeValidator(_value)]

    def holds(self, number: float) -> bool:
        """Return whether it holds for a number."""
        match self.op:
            case "EQ":
                return number == self.value
            case "GE":
                return number >= self.value
            case "LE":
                return number <= self.value


class ComparisonFilter(Keys):
    """Takes what a comparison holds for."""

    comparison: Comparison


class Filters(Keys):
    """Several filters."""

    filters: tuple["Filter", ...]


class Filter(Keys):
    """A filter; of several kinds all must take a request, and an empty one takes all."""

    status_code_filter: ComparisonFilter | None = None
    duration_filter: ComparisonFilter | None = None
    and_filter: Filters | None = None
    or_filter: Filters | None = None

    def takes(self, line: Mapping[str, Any]) -> bool:
        """Return whether the request of a line is logged."""
        numbers = (
            (self.status_code_filter, line.get("status", 0)),
            (self.duration_filter, line.get("duration_ms", 0)),
        )
        return (
            all(kind is None or kind.comparison.holds(number) for kind, number in numbers)
            and (self.and_filter is None or all(f.takes(line) for f in self.and_filter.filters))
            and (self.or_filter is None or any(f.takes(line) for f in self.or_filter.filters))
        )
