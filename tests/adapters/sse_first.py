"""Microseconds from a request to the first event of its answer, over one kept TLS connection: the median of COUNT.

Arguments: URL, COUNT. Roots come from SSL_CERT_FILE, as for any other Python program.
"""
import http.client
import ssl
import statistics
import sys
import time
from urllib.parse import urlsplit

url, count = urlsplit(sys.argv[1]), int(sys.argv[2])
connection = http.client.HTTPSConnection(url.hostname, url.port, context=ssl.create_default_context())
took = []
for _ in range(count):
    begun = time.perf_counter_ns()
    connection.request("GET", url.path, headers={"Accept": "text/event-stream"})
    answer = connection.getresponse()
    first = answer.readline()
    took.append((time.perf_counter_ns() - begun) / 1000)
    assert first.startswith(b"data:"), first
    answer.read()
# The first ones open the connection.
print(statistics.median(took[count // 10 :]))
