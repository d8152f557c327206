"""Requests as nobody should send them: from one wrong character to no HTTP at all."""

from __future__ import annotations

from urllib.parse import quote

from hypothesis import strategies as st

from imagedist.oci.digest import Digest
from tests.conformance.content import BLOB

INJECTED = "X-Injected"
_DIGESTS = (Digest.of(BLOB), Digest.of(b"nobody has this"), Digest.of(b"nor this", "sha512"))
_PIECES = r"""
up team app 1 latest manifests blobs tags list referrers uploads _catalog v2 site v1 torrents seeds nodes fetch
upstreams announce scrape livez readyz metrics .. . ... %2e%2e %252e%252e %2F %2f..%2f ..%5c .%00 %00 %ff %c0%af
%0d%0a %0d%0aX-Injected:%20yes \ ; : :: @ ~ * ' sha256: sha256:.. md5:00 %F0%9F%A6%8A %ed%a0%80 %zz % //
"""
_NAMES = (
    "ns",
    "n",
    "last",
    "artifactType",
    "wait",
    "repo",
    "share",
    "images",
    "layers",
    "since",
    "info_hash",
    "peer_id",
    "port",
    "left",
    "event",
)
_URL_TEXT = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#?"), max_size=12)

_digest = st.sampled_from([str(digest) for digest in _DIGESTS])
_piece = st.one_of(
    st.sampled_from(_PIECES.split()),
    _digest,
    st.sampled_from(["a" * 256, "a/" * 130 + "a", "T" * 129, "9" * 40, "-1", "1e9", "nan"]),
    _URL_TEXT,
    st.text(max_size=8).map(lambda text: quote(text.encode("utf-8", "surrogatepass"))),
)
_skeleton = st.sampled_from(
    [
        "/v2/up/team/app/manifests/{}",
        "/v2/up/team/app/blobs/{}",
        "/v2/up/team/app/referrers/{}",
        "/v2/up/{}/tags/list",
        "/v2/{}/manifests/1",
        "/v2/{}",
        "/site/v1/torrents/{}",
        "/site/v1/blobs/{}/fetch",
        "/site/v1/seeds/{}",
        "/site/v1/nodes/{}",
        "/site/v1/nodes/{}/work",
        "/site/v1/preheats/{}",
        "/site/v1/images",
        "/site/v1/suggested-preheats",
        "/site/v1/tags/{}:1",
        "/site/v1/tags",
        "/site/v1/{}",
        "/announce",
        "/scrape",
        "/token",
        "/{}",
    ]
)
_path = st.one_of(
    st.builds(lambda skeleton, piece: skeleton.replace("{}", piece), _skeleton, _piece),
    st.lists(_piece, max_size=6).map(lambda pieces: "/v2/" + "/".join(pieces)),
)
_query = st.lists(st.tuples(st.sampled_from(_NAMES), st.one_of(_piece, st.sampled_from(["0", "1", "2"]))), max_size=4)
_target = st.builds(
    lambda path, query: path + ("?" + "&".join(f"{key}={value}" for key, value in query) if query else ""),
    _path,
    _query,
)
_value = st.one_of(
    st.binary(max_size=30).map(lambda value: value.translate(None, b"\r\n")),
    st.sampled_from(
        [
            b"bytes=0-",
            b"bytes=-",
            b"bytes=9-1",
            b"bytes=0-0,2-2",
            b"bytes=999999999999999999999-",
            b"*",
            b'"',
            b'W/"x", "',
            b"Bearer " + b"x" * 5000,
            b"Basic !!!!",
            b"chunked",
            b"gzip",
            b"multipart/form-data",
            b"text/plain; charset=nonsense",
            b"gzip, chunked",
            b"100-continue",
            b"-1",
            b"18446744073709551616",
            b"0x10",
            b"\xff\xfe",
            b"x" * 9000,
            b"x" * 20_000,
        ]
    ),
)
_HEADERS = (
    b"Range If-Range If-None-Match If-Match Accept Accept-Encoding Authorization Content-Type Content-Encoding "
    b"Content-Length Expect "
    b"Transfer-Encoding Host Cookie X-Imagedist-Node X-Forwarded-For User-Agent Upgrade Connection X-Odd"
).split(b" ")
_headers = st.lists(st.tuples(st.sampled_from(_HEADERS), _value), max_size=4)
_method = st.one_of(
    st.sampled_from([b"GET", b"GET", b"GET", b"HEAD"]),
    st.sampled_from(
        [b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT", b"PRI", b"get", b"G\x00T"]
    ),
)
_body = st.one_of(st.just(b""), st.just(b"{}"), st.just(b'{"repo": ["x"], "ns": {}}'), st.binary(max_size=60))


def _request(
    method: bytes, target: str, version: bytes, headers: list[tuple[bytes, bytes]], body: bytes, honest: bool
) -> bytes:
    lines = [b" ".join((method, target.encode(), version)), b"Host: site", b"Connection: close"]
    lines += [name + b": " + value for name, value in headers]
    if honest and body:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, b"", b""]) + body


well_formed = st.builds(
    _request,
    _method,
    _target,
    st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9"]),
    _headers,
    _body,
    st.booleans(),
)
"""By the look of it."""


def _broken(request: bytes, at: int, noise: bytes, drops: int) -> bytes:
    at %= len(request)
    return request[:at] + noise + request[at + drops :]


any_request = st.one_of(
    well_formed,
    well_formed,
    st.builds(_broken, well_formed, st.integers(0, 1 << 16), st.binary(max_size=4), st.integers(0, 3)),
    st.binary(min_size=1, max_size=200),
    st.just(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    st.just(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 2000 + b"\r\n"),
)
