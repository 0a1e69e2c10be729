"""The text of haproxy.cfg, from a table. Pure: it knows no file, process or clock.

How a request finds its endpoint (paths are URL-decoded and without the query):
  1. a route without parameters that equals the path;
  2. else the first pattern that matches, in creation order, those of mounts after those of whole
      paths;
  3. else the longest mount the path is in.
The method is looked at after that: the path alone decides which endpoint's methods count. Nothing
found: the same for the path with its last slash removed or added, as a redirect; else 404.

Lookups are in map files (`maps.py`), so a request costs the same with one endpoint as with a
thousand. Only a policy that splits or shadows traffic has rules of its own. What is rare (redirect,
404) is in a section of its own, so that a served request does not pass its rules.
"""

from __future__ import annotations

import re

from observability.instrument.traceparent import TRACEPARENT_PATTERN
from serve.ids import REQUEST_ID_PATTERN
from serve.ingress.loglines import MAX_LINE_BYTES, WHOLE_BYTES, log_format
from serve.ingress.maps import (
    HEALTH_SECTION,
    MISS_SECTION,
    NO_TRAFFIC_SECTION,
    RELAY_SECTION,
    ROUTES_SECTION,
    Endpoint,
    Maps,
    all_backends,
    key_endpoints,
    make_maps,
    method_sets,
)
from serve.ingress.names import section_name, server_name
from serve.ingress.preference import LOCAL_WEIGHT, prefer_idle, split_by_node
from serve.ingress.records import CONFIG_NAME, Document, IngressSettings
from serve.ingress_token import TOKEN_HEADER
from serve.records import BackendTargets, IngressTable, ReplicaAddress
from serve.traffic import SHARD_HEX_DIGITS, SPLIT_SCALE, shadow_edge, thresholds

FILE_LIMIT = 65_536
"""Most file descriptors HAProxy sizes its tables for.

Without it an unlimited `nofile` costs gigabytes.
"""

CONNECT_TIMEOUT_MS = 100
RETRY_WINDOW_S = 5.0
"""How long a request waits for a replica that refuses connections.

One attempt each CONNECT_TIMEOUT_MS.
"""

SILENT_HOST_S = 10
"""How soon a connection to a host that is cut off is known to be dead, seconds.

What was sent over it after the cut is not covered: TCP sends that again and again, until the
request's own time limit. HAProxy's `tcp-ut` would end it, but a server that is added while it runs
can't have it.
"""

_HAPROXY_BUFFER_BYTES = 16_384
_HAPROXY_REWRITE_BYTES = 1_024
_HEAD_BYTES = 1_024  # room for the status line and headers beside a body in one buffer
_MAX_TIMEOUT_S = 2_000_000.0  # HAProxy counts milliseconds in 31 bits
_TEXT = 'content-type "text/plain; charset=utf-8"'
_NOT_FOUND = "Path %[{}] not found. Please ping http://.../-/routes for route table."
_METHOD = re.compile(r"[A-Z][A-Z0-9_-]*")
_HOST = re.compile(r"[A-Za-z0-9_.:%-]+")


def render(table: IngressTable, settings: IngressSettings) -> Document:
    """All files of a HAProxy that serves the table.

    Args:
        table: what to serve.
        settings: of this node.

    Returns:
        The configuration, which names the other files by their path in `settings.folder`, and the
        maps.

    Raises:
        ValueError: a name, route, method or address cannot be served; says which and why.
    """
    maps = make_maps(table)
    files = {name: f"{settings.folder}/{getattr(maps, name).name}" for name in Maps.__slots__}
    endpoints = key_endpoints(table)
    lines = [
        *_global(maps, endpoints, settings),
        *_defaults(settings, files),
        *_frontend(table, endpoints, files, maps, settings),
        *_miss(files, maps),
        *_own_answers(files),
        *_relay(settings),
    ]
    for backend in all_backends(table):
        lines += _backend(backend, files, settings)
    config = "\n".join(lines) + "\n"
    return Document(((CONFIG_NAME, config), *((m.name, m.text) for m in maps.all)))


def format_address(host: str, port: int) -> str:
    """`host:port` as HAProxy reads it, IPv6 in brackets.

    Raises:
        ValueError: the host holds characters no address has.
    """
    if not _HOST.fullmatch(host):
        raise ValueError(f"Host {host!r} is not an address. Expected one like '10.0.0.5'.")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _global(maps: Maps, endpoints: list[Endpoint], settings: IngressSettings) -> list[str]:
    """Buffers hold the longest names and the route table.

    Their size is HAProxy's where that is enough.
    """
    longest = max((_header_bytes(endpoint) for endpoint in endpoints), default=0)
    rewrite = _HAPROXY_REWRITE_BYTES + longest
    body = len(maps.listing.text.encode())
    buffer = max(_HAPROXY_BUFFER_BYTES + longest, rewrite + body + _HEAD_BYTES)
    return [
        "global",
        f"    nbthread {settings.thread_count}",
        f"    fd-hard-limit {FILE_LIMIT}",
        f"    stats socket {settings.admin_socket} mode 600 level admin expose-fd listeners",
        f"    tune.bufsize {buffer}",
        f"    tune.maxrewrite {rewrite}",
        *_log_target(settings),
        "",
    ]


def _log_target(settings: IngressSettings) -> list[str]:
    return (
        [f"    log stdout len {MAX_LINE_BYTES} format raw local0 info"]
        if settings.is_logged
        else []
    )


def _header_bytes(endpoint: Endpoint) -> int:
    route = endpoint.route
    tags = "".join(tag + "X-Serve-Shadow: " for tag, _ in route.policy.shadows)
    return len((route.endpoint + (route.route or "") + tags).encode())


def _defaults(settings: IngressSettings, files: dict[str, str]) -> list[str]:
    request_timeout = _ms(settings.request_timeout_s)
    log = []
    if settings.is_logged:
        log = [
            "    log global",
            "    option dontlognull",
            f"    log-format {log_format(files)}",
        ]
    return [
        "defaults",
        "    mode http",
        "    timeout http-request 10s",
        f"    timeout http-keep-alive {_ms(settings.keep_alive_timeout_s)}",
        f"    timeout client {request_timeout}",
        f"    timeout server {request_timeout}",
        f"    timeout connect {CONNECT_TIMEOUT_MS}ms",
        "    timeout tunnel 1h",
        "    option idle-close-on-response",
        "    option http-no-delay",
        *_probe_servers(),
        *log,
        "",
    ]


def _probe_servers() -> list[str]:
    """Ask the host of a silent replica whether it is there: three times, after a pause."""
    every_s, count = 2, 3
    return [
        "    option srvtcpka",
        f"    srvtcpka-idle {SILENT_HOST_S - every_s * count}s",
        f"    srvtcpka-intvl {every_s}s",
        f"    srvtcpka-cnt {count}",
    ]


def _frontend(
    table: IngressTable,
    endpoints: list[Endpoint],
    files: dict[str, str],
    maps: Maps,
    settings: IngressSettings,
) -> list[str]:
    valid_id = (
        "{ req.fhdr_cnt(x-request-id) eq 1 } "
        f"{{ req.fhdr(x-request-id) -m reg ^{REQUEST_ID_PATTERN}$ }}"
    )
    key = "var(txn.key)"
    lines = [
        "frontend ingress",
        f"    bind {format_address(settings.host, settings.port)}",
        f"    bind unix@{settings.relay_socket} mode 600 accept-proxy",
        f"    http-request set-var(txn.id) req.fhdr(x-request-id) if {valid_id}",
        "    http-request set-var(txn.id) uuid,regsub(-,,g) unless { var(txn.id) -m found }",
        "    http-request set-header X-Request-ID %[var(txn.id)]",
        "    http-request set-header X-Serve-Start %[date(0,us)]",
        "    http-after-response set-header X-Request-ID %[var(txn.id)]",
        *_note_trace(settings),
        _refuse_nul(),
        *_find("txn.key", "path", files, maps),
        *_methods(table),
        f"    http-request set-header X-Serve-Endpoint %[{key},map_str({files['endpoints']})]",
        f"    http-request set-header X-Serve-Route %[{key},map_str({files['routes']})]",
        "    http-request del-header X-Serve-Mount",
        "    http-request del-header X-Serve-Attempts",
        "    http-request del-header X-Serve-Shadow",
    ]
    if settings.is_logged:
        lines += _tell_untold()
    lines += _answers_of_sidecars()
    if any(endpoint.route.is_mount for endpoint in endpoints):
        lines.append("    http-request set-header X-Serve-Mount 1 if { var(txn.key) -m sub .p. }")
    chosen = [f"    use_backend {RELAY_SECTION} if {{ stopping }}", *_split(endpoints, files)]
    # http-request rules run before any use_backend: keep them in that order in the text too
    lines += sorted(chosen, key=lambda line: line.startswith("    use_backend"))
    lines += [
        f"    use_backend %[{key},map_str({files['targets']})] if {{ {key} -m found }}",
        f"    default_backend {MISS_SECTION}",
        "",
    ]
    return lines


def _tell_untold() -> list[str]:
    """A replica tells of what it answered whole, but not of what its server can't read."""
    by_replica = "{ res.fhdr(x-serve-replica) -m found }"
    is_short = f"{{ res.fhdr(content-length) -m int le {WHOLE_BYTES} }}"
    return [
        f"    http-response set-log-level silent if {by_replica} {is_short}",
        f"    http-response set-var(txn.untold) str(1) unless {by_replica}",
    ]


def _answers_of_sidecars() -> list[str]:
    """What the sidecar of a replica that died answers: `<runs> <replica tag>` in a header.

    User code can't say that, as all that it answers names its replica.
    """
    died = "{ var(txn.died) -m found }"
    replica = "%[var(txn.died),regsub(^[0-9]+ ,)]"
    return [
        "    http-response set-var(txn.died) res.fhdr(x-serve-died) "
        "unless { res.fhdr(x-serve-replica) -m found }",
        f"    http-response set-header X-Serve-Replica '{replica}' if {died}",
        f"    http-response del-header X-Serve-Died if {died}",
    ]


def _note_trace(settings: IngressSettings) -> list[str]:
    """For the log: of a request that reaches no replica, too, it is known whose trace it is in."""
    if not settings.is_logged:
        return []
    return [
        "    http-request set-var(txn.trace) req.fhdr(traceparent) if "
        "{ req.fhdr_cnt(traceparent) eq 1 } "
        f"{{ req.fhdr(traceparent) -m reg ^{TRACEPARENT_PATTERN}$ }}"
    ]


def _refuse_nul() -> str:
    """Map lookups end at a NUL: without this `/f%00x` would be `/f`."""
    return (
        f"    http-request return status 404 {_TEXT} lf-string '{_NOT_FOUND.format('path')}' "
        "if { path -m sub %00 }"
    )


def _find(variable: str, path: str, files: dict[str, str], maps: Maps) -> list[str]:
    """Rules that put the key of a path's endpoint into a variable, if there is one."""
    lines = [f"    http-request set-var({variable}) {path},url_dec,map_str({files['literals']})"]
    missing = f"unless {{ var({variable}) -m found }}"
    if maps.patterns.text:
        lookup = f"{path},url_dec,map_reg({files['patterns']})"
        lines.append(f"    http-request set-var({variable}) {lookup} {missing}")
    if (
        maps.mounts.text
    ):  # with a slash after it, a path is in a mount when it starts with the mount
        lookup = f"{path},url_dec,concat(/),map_beg({files['mounts']})"
        lines.append(f"    http-request set-var({variable}) {lookup} {missing}")
    return lines


def _methods(table: IngressTable) -> list[str]:
    """One rule for each set of methods, and there are few."""
    lines = []
    for index, methods in enumerate(method_sets(table)):
        if not methods:
            continue
        for method in methods:
            if not _METHOD.fullmatch(method):
                raise ValueError(f"HTTP method {method!r} is not one. Expected one like 'POST'.")
        alternatives = " ".join(methods)
        allow = ", ".join(methods)
        lines.append(
            f"    http-request return status 405 {_TEXT} string 'Method Not Allowed' "
            f"hdr Allow '{allow}' if !{{ method {alternatives} }} "
            f"{{ var(txn.key) -m beg m{index}. }} !{{ stopping }}"
        )
    return lines


def _split(endpoints: list[Endpoint], files: dict[str, str]) -> list[str]:
    """Draw the number.

    Name the shadows, choose the backend. The last share is in the map of targets.
    """
    split = [endpoint for endpoint in endpoints if endpoint.is_split]
    if not split:
        return []
    is_split = "{ var(txn.key) -m sub .s. }"
    number = f"sha2(256),hex,bytes(0,{SHARD_HEX_DIGITS}),hex2i,mod({SPLIT_SCALE})"
    lines = [
        f"    http-request set-var(txn.number) req.fhdr(x-serve-shard-key),{number} if {is_split}",
        f"    http-request set-var(txn.number) rand({SPLIT_SCALE}) if {is_split} "
        "!{ var(txn.number) -m found }",
    ]
    for endpoint in split:
        is_this = f"{{ var(txn.key) -m str {endpoint.key} }}"
        for tag, proportion in endpoint.route.policy.shadows:
            lines.append(
                "    http-request add-header X-Serve-Shadow "
                f"%[str({section_name(tag)}),map_str({files['tags']})] "
                f"if {is_this} {{ var(txn.number) -m int lt {shadow_edge(proportion)} }}"
            )
        for tag, edge in thresholds(endpoint.route.policy)[:-1]:
            lines.append(
                f"    use_backend {section_name(tag)} if {is_this} "
                f"{{ var(txn.number) -m int lt {edge} }}"
            )
    return lines


def _miss(files: dict[str, str], maps: Maps) -> list[str]:
    """No endpoint: 307 to the path's twin if there is one, else 404.

    A Location that starts with two slashes, or a slash and a backslash, would name another host:
    not redirected.
    """
    return [
        f"backend {MISS_SECTION}",
        "    http-request set-var(txn.twin) 'path,regsub(/+$,)' if { path_end / } !{ path / }",
        "    http-request set-var(txn.twin) path,concat(/) if !{ path_end / }",
        *_find("txn.twin_key", "var(txn.twin)", files, maps),
        "    http-request set-var(txn.path) path",
        "    http-request set-var(txn.path) path,url_dec,bytes(0,1024)",
        "    acl is_twin var(txn.twin_key) -m found",
        r"    acl is_other_host path_reg '^/+[/\\]'",
        "    http-request set-path %[var(txn.twin)] if is_twin !is_other_host",
        "    http-request redirect code 307 location %[pathq] if is_twin !is_other_host",
        f"    http-request return status 404 {_TEXT} "
        f"lf-string '{_NOT_FOUND.format('var(txn.path)')}'",
        "",
    ]


def _own_answers(files: dict[str, str]) -> list[str]:
    """Health, the route table, and endpoints that have no traffic."""
    return [
        f"backend {HEALTH_SECTION}",
        "    http-request set-log-level silent",
        f"    http-request return status 200 {_TEXT} string success",
        "",
        f"backend {ROUTES_SECTION}",
        f"    http-request return status 200 content-type application/json file {files['listing']}",
        "",
        f"backend {NO_TRAFFIC_SECTION}",
        f"    http-request return status 503 {_TEXT} hdr Retry-After 1 lf-string "
        f'\'Endpoint "%[var(txn.key),map_str({files["endpoints"]})]" has no traffic. '
        "Give it some with serve.set_traffic(...).'",
        "",
    ]


def _relay(settings: IngressSettings) -> list[str]:
    """Where a worker that a reload has replaced sends what still comes: to its successor.

    It keeps its idle connections until their next request, so that none is closed under a client
    that just sends one. That request must see today's routes and replicas, not those of back then.
    """
    return [
        f"backend {RELAY_SECTION}",
        f"    server successor unix@{settings.relay_socket} send-proxy-v2",
        "",
    ]


def _backend(
    backend: BackendTargets, files: dict[str, str], settings: IngressSettings
) -> list[str]:
    """One serve backend.

    leastconn, not roundrobin: times of a model's answers differ, and the replica with the fewest
    under way is the one that is free first; among equals it takes turns. How replicas of one node
    go before others is told in `preference.py`.
    """
    name = section_name(backend.backend_tag)
    tag = f"%[str({name}),map_str({files['tags']})]"
    own = f"hdr X-Serve-Backend '{tag}'"
    limit = backend.max_queued_queries
    is_full = f"{{ queue ge {limit} }} " if limit > 0 else ""
    lines = [
        f"backend {name}",
        "    balance leastconn",
        "    http-reuse always",
        f"    timeout queue {_ms(backend.queue_timeout_s)}",
        f"    retries {round(RETRY_WINDOW_S * 1000 / CONNECT_TIMEOUT_MS)}",
        "    retry-on conn-failure empty-response",
        "    option redispatch 1",
        "    option abortonclose",
        "    option forwardfor",
        *_show_token(settings.token),
        "    http-request disable-l7-retry unless { method GET HEAD OPTIONS PUT DELETE TRACE }",
        f"    http-request return status 503 {_TEXT} hdr Retry-After 1 {own} lf-string "
        f'\'Backend "{tag}" is busy and its queue of {limit} is full. Try again later, or raise '
        f"max_queued_queries.' if {is_full}{{ nbsrv gt 0 }} {{ be_conn_free le 0 }}",
        f"    http-error status 503 {_TEXT} hdr Retry-After 1 {own} lf-string "
        f'\'No replica of backend "{tag}" could take the request in time. Replicas: %[nbsrv], '
        "waiting requests: %[queue].'",
        f"    http-error status 502 {_TEXT} {own} lf-string "
        f'\'A replica of backend "{tag}" ended while it answered; the request may have been '
        "executed.'",
        f"    http-error status 504 {_TEXT} {own} lf-string "
        f"'Backend \"{tag}\" did not answer in time (request_timeout_s of http_options).'",
    ]
    at_once = backend.max_concurrent_queries
    preferred, others = split_by_node(backend.replicas, settings.preferred_node)
    lines += prefer_idle(name, [server_name(replica.replica_tag) for replica in preferred])
    lines += [f"{_server(replica, at_once)} weight {LOCAL_WEIGHT}" for replica in preferred]
    lines += [_server(replica, at_once) for replica in others]
    return [*lines, ""]


def _show_token(token: str) -> list[str]:
    """By it the replicas know an ingress. It is in this section only: no other answerer sees it."""
    return [f"    http-request set-header {TOKEN_HEADER} {token}"] if token else []


def _server(replica: ReplicaAddress, limit: int) -> str:
    address = format_address(replica.host, replica.http_port)
    return f"    server {server_name(replica.replica_tag)} {address} maxconn {max(1, limit)}"


def _ms(seconds: float) -> str:
    """Milliseconds, at least 1: to HAProxy 0 means for ever."""
    return f"{max(1, round(min(seconds, _MAX_TIMEOUT_S) * 1000))}ms"
