"""Receives spans and metrics by OTLP over gRPC, and keeps them."""

import contextlib
import dataclasses
from concurrent import futures

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Sent


def values(attributes):
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in attributes}


@dataclasses.dataclass
class Span:
    resource: dict
    name: str
    kind: str
    trace: str
    id: str
    parent: str
    links: list
    status: int
    attributes: dict


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self):
        self.spans = []
        # By name: what each point is labelled with.
        self.metrics = {}

    def Export(self, request, _):
        for of_resource in request.resource_spans:
            resource = values(of_resource.resource.attributes)
            for span in (span for scope in of_resource.scope_spans for span in scope.spans):
                self.spans.append(
                    Span(
                        resource=resource,
                        name=span.name,
                        kind=Sent.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                        trace=span.trace_id.hex(),
                        id=span.span_id.hex(),
                        parent=span.parent_span_id.hex(),
                        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                        status=span.status.code,
                        attributes=values(span.attributes),
                    )
                )
        return trace_service_pb2.ExportTraceServiceResponse()

    def of(self, trace):
        return [span for span in self.spans if span.trace == trace]


class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    def __init__(self, receiver):
        self.receiver = receiver

    def Export(self, request, _):
        scopes = (scope for of_resource in request.resource_metrics for scope in of_resource.scope_metrics)
        for metric in (metric for scope in scopes for metric in scope.metrics):
            points = getattr(metric, metric.WhichOneof("data")).data_points
            self.receiver.metrics.setdefault(metric.name, []).extend(values(point.attributes) for point in points)
        return metrics_service_pb2.ExportMetricsServiceResponse()


@contextlib.contextmanager
def receiving():
    """A receiver, and the port that it listens on."""
    receiver, server = Receiver(), grpc.server(futures.ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Metrics(receiver), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield receiver, port
    finally:
        server.stop(0).wait()
