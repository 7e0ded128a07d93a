"""An unchanged client with OpenTelemetry's own instrumentation: gets each URL in a span of its own. Arguments: "on" or "off" (whether
traces are sampled), URLs. Prints, for each, the status and its trace and span, and last its trace state.
"""
import json
import sys

import httpx
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

kept = InMemorySpanExporter()
provider = TracerProvider(sampler=ALWAYS_ON if sys.argv[1] == "on" else ALWAYS_OFF)
provider.add_span_processor(SimpleSpanProcessor(kept))
trace.set_tracer_provider(provider)
HTTPXClientInstrumentor().instrument()
with httpx.Client() as client:
    for url in sys.argv[2:]:
        kept.clear()
        answer = client.get(url)
        seen = kept.get_finished_spans()
        context = seen[0].get_span_context() if seen else None
        print(json.dumps({
            "status": answer.status_code,
            "trace": f"{context.trace_id:032x}" if context else "",
            "span": f"{context.span_id:016x}" if context else "",
        }))
