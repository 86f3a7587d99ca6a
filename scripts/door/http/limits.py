"""Every bound and time of the HTTP layer, with the reason for its default."""

from dataclasses import dataclass

from scripts.door.addresses import Network


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds, sizes in bytes, rates in bytes per second."""

    # --- the head of a request ---
    head_bytes: int = 16 * 1024  # request line and header fields; browsers and load balancers stay under 16 kB
    head_lines: int = 100  # header fields; as many as Apache and Python's http.client take
    target_bytes: int = 8 * 1000  # RFC 9112, section 3: at least 8,000 octets are recommended
    head_s: float = 10.0  # from the first byte of a request to the end of its head; a phone on a bad line needs 2
    first_byte_s: float = 10.0  # from the connection to its first byte

    # --- the body of a request ---
    body_rate: float = 1000.0  # averaged since the body began, once `body_grace_s` is over; GPRS does more
    body_grace_s: float = 10.0
    body_s: float = 300.0  # for a whole body; 28 MB at 100 kB/s take 280
    buffered_bytes: int = 256 * 1024  # of a body that the application has not read yet; then reading pauses
    chunk_line_bytes: int = 256  # a chunk's size and extensions, which nobody uses
    chunk_overhead_bytes: int = (
        16 * 1024
    )  # chunk lines beyond an eighth of the body: a chunk of one byte costs as much as one of 64 kB
    trailer_bytes: int = 4 * 1024  # dropped, so only read past

    # --- between requests, and after the last ---
    idle_s: float = 75.0  # longer than the 60 of an AWS load balancer, which then is the one that closes
    pipelined_bytes: int = 64 * 1024  # of requests behind the one that is being answered; then reading pauses
    drain_bytes: int = 256 * 1024  # of a body that the application did not want: read past to keep the connection
    linger_bytes: int = 64 * 1024 * 1024  # ... before a close: the client must be able to send all of it to see its answer
    linger_s: float = 30.0  # ... for at most so long, as nginx does
    linger_silent_s: float = (
        2.0  # ... and while something comes: TLS tells its end with the close alone, which a client may wait for
    )

    # --- answers ---
    write_rate: float = 1000.0  # of a client that reads an answer, once `write_grace_s` is over
    write_grace_s: float = 10.0  # the system takes answers in bursts: a slow client needs them to be small
    # of answers that the system holds for a client beyond what is under way to it; it would take 4 MB for each that does not read
    unsent_bytes: int = 128 * 1024

    # --- connections ---
    connections: int = 10_000  # in all; each idle one takes about 10 kB
    tls_connections: int = 2_000  # ... over TLS: once a body has come, each holds some 300 kB in uvloop's and OpenSSL's buffers
    connections_per_address: int = 512  # a NAT's clients share one address
    proxies: tuple[Network, ...] = ()  # whose connections are those of many clients, and not bounded so
    reserved_files: int = 64  # descriptors for everything that is no connection of a client
    handshake_s: float = 10.0  # of TLS
    retry_after_s: int = 2  # told to a client that found no room

    # --- the end ---
    stop_s: float = 30.0  # for the answers in flight, when the server stops
