from __future__ import annotations

from benchmarks.taps import AmqpWatch, HttpWatch, Tally

TRANSACTION = (
    b"POST /devstoreaccount1/$batch HTTP/1.1\r\nHost: x\r\n\r\n--batch\r\n\r\n"
    b"PUT http://x/devstoreaccount1/t(PartitionKey='a') HTTP/1.1\r\n\r\n{}\r\n"
    b"PUT http://x/devstoreaccount1/t(PartitionKey='a') HTTP/1.1\r\n\r\n{}\r\n"
)


def test_a_transaction_is_one_request_with_its_entities() -> None:
    tally = Tally()
    watch = HttpWatch(tally)
    watch.up(TRANSACTION)
    watch.down(b"HTTP/1.1 202 Accepted\r\n")
    watch.down(b"more of the same answer")
    watch.up(b"GET /devstoreaccount1/t(PartitionKey='a',RowKey='b')?x=1 HTTP/1.1\r\n\r\n")
    watch.down(b"HTTP/1.1 200 OK\r\n")
    assert dict(tally.requests) == {"POST /$batch": 1, "GET /t": 1}
    assert tally.entities == 2


def frame(performative: int, body: bytes = b"") -> bytes:
    content = b"\x00\x53" + bytes([performative]) + body
    return (len(content) + 8).to_bytes(4, "big") + b"\x02\x00\x00\x00" + content


def test_frames_are_counted_however_they_are_cut() -> None:
    tally = Tally()
    watch = AmqpWatch(tally)
    upwards = (
        b"AMQP\x00\x01\x00\x00" + frame(0x10) + frame(0x14, b"x" * 900) + frame(0x15) + b"\x00\x00\x00\x08\x02\0\0\0"
    )
    for index in range(0, len(upwards), 7):
        watch.up(upwards[index : index + 7])
    watch.down(frame(0x14) + frame(0x14) + frame(0x15))
    assert (tally.sent, tally.received, tally.settled) == (1, 2, 1)
