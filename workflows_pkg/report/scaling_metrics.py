"""What does Prometheus, or KEDA itself, read of how many workers there should be? A page of metrics, made anew at every look."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from workflows_pkg.advisor.scaling.plan import Moment, Plan
from workflows_pkg.errors import MissingExtra, WorkflowsError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import GaugeMetricFamily

WORKERS = "workflows_scale_workers"
PRESENT = "workflows_scale_present"
PEAK = "workflows_scale_peak"
FORECAST = "workflows_scale_forecast"
KNOWN_UNTIL = "workflows_scale_known_until_seconds"
UP = "workflows_scale_up"


def metrics(slots: str, look: Callable[[], tuple[Plan, Moment]], failed: Callable[[WorkflowsError], None]) -> CollectorRegistry:
    """A registry that looks anew whenever it is read. Where the look fails, `failed` is told, and all it has is `workflows_scale_up` 0:
    no figure is better than an old one, since KEDA has its `fallback` for that. Raises MissingExtra without prometheus-client."""
    if find_spec("prometheus_client") is None:
        raise MissingExtra("Serving metrics", "metrics")
    from prometheus_client import CollectorRegistry
    from prometheus_client.registry import Collector

    class Scaling(Collector):
        def collect(self) -> Iterator[GaugeMetricFamily]:
            try:
                plan, moment = look()
            except WorkflowsError as error:
                failed(error)
                yield _gauge(UP, "Whether the history could be read.", slots, 0)
                return
            yield _gauge(UP, "Whether the history could be read.", slots, 1)
            yield from families(plan, moment, slots)

    registry = CollectorRegistry()
    registry.register(Scaling())
    return registry


def families(plan: Plan, moment: Moment, slots: str) -> Iterator[GaugeMetricFamily]:
    """The metrics of a moment, with the label `slots`; of the coming hours the peaks, by `hours_ahead` and `quantile`."""
    from prometheus_client.core import GaugeMetricFamily

    yield _gauge(WORKERS, "Workers that there should be now.", slots, moment.workers)
    yield _gauge(PRESENT, "What has a worker now, or waits for one.", slots, moment.present)
    yield _gauge(
        FORECAST, "1 where a forecast is in the figure, 0 where it is that of reactive scaling.", slots, not plan.why_reactive
    )
    if moment.known_until is not None:
        yield _gauge(KNOWN_UNTIL, "The newest instant in the history, since 1970.", slots, moment.known_until.timestamp())
    peak = GaugeMetricFamily(
        PEAK, "The most at once in an hour, 0 hours ahead: the present one.", labels=["slots", "hours_ahead", "quantile"]
    )
    coming = [hour for hour in plan.hours.hours if hour.start.timestamp() + 3600 > moment.at.timestamp()] if plan.hours else []
    for ahead, hour in enumerate(coming):
        for quantile, value in (("0.05", hour.p05), ("0.5", hour.p50), ("0.95", hour.p95)):
            peak.add_metric([slots, str(ahead), quantile], value)
    yield peak


def _gauge(name: str, said: str, slots: str, value: float) -> GaugeMetricFamily:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(name, said, labels=["slots"])
    family.add_metric([slots], value)
    return family
