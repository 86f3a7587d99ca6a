"""HTTP/1.1 as RFC 9110 and 9112 demand it, strictly, with a time and a bound for everything; an ASGI server on uvicorn.

server.py        listeners of one process, each with its application; TLS; graceful stop
protocol.py      one connection: heads, bodies, answers in order, and how it ends
head.py          what is checked of a request's head;  chunks.py  where a chunked body ends
cycle.py         one request and its answer, as the application sees them
connections.py   all connections: caps, who is evicted, the sweep that ends what takes too long
refusal.py       answers of the layer itself;  request_id.py  the id of a request
limits.py        every bound and time;  pace.py  least rates;  lifetime.py  how a connection ends
tls.py           contexts, and a self-signed pair;  handshake.py  a connection before TLS
It holds nothing of photos or models. What it takes of uvicorn's inner parts is pinned by tests/door/test_http_uvicorn.py.
"""
