"""Let Envoy authorize requests by the gateway, over gRPC and over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support import OPERATOR, PROXY, Gateway, policy, running

ENVOY = os.environ["ACTPASS_ENVOY"]
FILTERS = "type.googleapis.com/envoy.extensions.filters"
AGENT = "spiffe://shop.example/agent/support"
POLICY = policy(
    "args.body.amount",
    {"path": "tool", "operator": "==", "value": "http.post"},
    {"path": "args.path", "operator": "==", "value": "/v1/refunds"},
)

Seen = list[dict[str, Any]]


@pytest.fixture(scope="module")
def upstream() -> Iterator[tuple[int, Seen]]:
    """Run the server that Envoy protects."""
    seen: Seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            seen.append({"path": self.path, "body": body, "events": self.headers.get_all("x-actpass-event")})
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port, seen
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("gateway"), POLICY) as gateway:
        yield gateway


class Envoy:
    """Envoy before the upstream server, with mutual TLS."""

    def __init__(self, folder: Path, kind: str, key: str, gateway: int, upstream: int, **filter_settings: Any) -> None:
        self.kind = kind
        for name, identity in [("server", "DNS:localhost"), ("client", f"URI:{AGENT}")]:
            # Each is its own authority.
            command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
            command += ["-subj", f"/CN={name}", "-addext", f"subjectAltName={identity}"]
            command += ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
            subprocess.run(command, check=True, capture_output=True)
        cluster = {"http2_protocol_options": {}} if kind == "grpc" else {"http_protocol_options": {}}
        options = {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": cluster,
        }
        header = {"key": "authorization", "value": f"Bearer {key}"}
        services: dict[str, Any] = {
            "grpc": {
                "grpc_service": {
                    "envoy_grpc": {"cluster_name": "actpass", "authority": f"127.0.0.1:{gateway}"},
                    "initial_metadata": [header],
                    "timeout": "10s",
                },
                "with_request_body": {"max_request_bytes": 8192, "pack_as_bytes": True},
                "include_peer_certificate": False,
            },
            "http": {
                "http_service": {
                    "server_uri": {"uri": f"http://127.0.0.1:{gateway}", "cluster": "actpass", "timeout": "10s"},
                    "path_prefix": "/ext-authz",
                    "authorization_request": {"headers_to_add": [header]},
                    "authorization_response": {
                        "allowed_upstream_headers": {"patterns": [{"exact": "x-actpass-event"}]}
                    },
                },
                "allowed_headers": {"patterns": [{"exact": name} for name in ("content-type", "x-actpass-passport")]},
                "with_request_body": {"max_request_bytes": 8192, "pack_as_bytes": True},
            },
        }
        external = {
            "@type": f"{FILTERS}.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            **services[kind],
            **filter_settings,
        }
        manager = {
            "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "shop",
                        "domains": ["*"],
                        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "shop"}}],
                    }
                ]
            },
            "http_filters": [
                {"name": "envoy.filters.http.ext_authz", "typed_config": external},
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": f"{FILTERS}.http.router.v3.Router"},
                },
            ],
        }
        certificate = {
            "certificate_chain": {"filename": str(folder / "server.pem")},
            "private_key": {"filename": str(folder / "server.key")},
        }
        tls = {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": True,
            "common_tls_context": {
                "tls_certificates": [certificate],
                "validation_context": {"trusted_ca": {"filename": str(folder / "client.pem")}},
            },
        }

        def at(port: int) -> dict[str, Any]:
            return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

        def static(name: str, port: int, **more: Any) -> dict[str, Any]:
            endpoints = [{"lb_endpoints": [{"endpoint": {"address": at(port)}}]}]
            return {"name": name, "load_assignment": {"cluster_name": name, "endpoints": endpoints}, **more}

        extension = {
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}
        }
        settings = {
            "admin": {"address": at(0)},
            "static_resources": {
                "listeners": [
                    {
                        "name": "in",
                        "address": at(0),
                        "filter_chains": [
                            {
                                "filters": [
                                    {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
                                ],
                                "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
                            }
                        ],
                    }
                ],
                "clusters": [static("shop", upstream), static("actpass", gateway, **extension)],
            },
        }
        (folder / "envoy.json").write_text(json.dumps(settings))
        command = [ENVOY, "-c", "envoy.json", "--use-dynamic-base-id", "--concurrency", "1"]
        command += ["--admin-address-path", "admin", "--log-level", "warning"]
        self.log = folder / "envoy.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        self.port = self.listening(folder / "admin")
        self.trust = ssl.create_default_context(cafile=str(folder / "server.pem"))
        self.trust.load_cert_chain(folder / "client.pem", folder / "client.key")

    def listening(self, admin: Path) -> int:
        """Wait for the listener; return its port."""
        for _ in range(600):
            if self.process.poll() is not None:
                break
            try:
                host, port = admin.read_text().rsplit(":", 1)
                connection = http.client.HTTPConnection(host, int(port))
                connection.request("GET", "/listeners?format=json")
                found = json.loads(connection.getresponse().read())["listener_statuses"]
                connection.close()
                return int(found[0]["local_address"]["socket_address"]["port_value"])
            except (OSError, ValueError, KeyError, IndexError):
                time.sleep(0.05)
        pytest.fail(f"Envoy did not start: {self.log.read_text()}")

    def post(self, body: str, path: str = "/v1/refunds", **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPSConnection("localhost", self.port, context=self.trust, timeout=30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, body, {"content-type": "application/json", **named})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        is_json = response.getheader("content-type") == "application/json"
        return response.status, json.loads(text) if is_json else text

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


@pytest.fixture(scope="module", params=["grpc", "http"])
def envoy(
    request: pytest.FixtureRequest,
    gateway: Gateway,
    upstream: tuple[int, Seen],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Envoy]:
    envoy = Envoy(tmp_path_factory.mktemp("envoy"), request.param, PROXY, gateway.port, upstream[0])
    yield envoy
    envoy.stop()


def test_allowed_request_reaches_the_server_once(envoy: Envoy, gateway: Gateway, upstream: tuple[int, Seen]) -> None:
    seen = upstream[1]
    seen.clear()
    status, _ = envoy.post('{"amount": 4900}', x_actpass_event="forged")
    assert status == 200
    [reached] = seen
    assert reached["body"] == b'{"amount": 4900}'
    event = gateway.events()[-1]
    assert reached["events"] == [event["event_id"]]
    assert (event["protocol"], event["tool_id"], event["decision"]) == ("ext_authz", "http.post", "allow")
    # Only gRPC describes the peer's certificate.
    assert event.get("agent_id") == (AGENT if envoy.kind == "grpc" else None)


@pytest.mark.parametrize(
    ("body", "path", "status", "expected"),
    [
        ('{"amount": 90000}', "/v1/refunds", 403, "deny"),
        ('{"amount": 4900}', "/v1/payouts", 403, "require_approval"),
        ('{"amount": 4900}', "/v1/x/../refunds", 400, "invalid_member"),
        ('{"amount": 1, "amount": 90000}', "/v1/refunds", 400, "invalid_member"),
        ("{", "/v1/refunds", 400, "invalid_member"),
    ],
)
def test_other_requests_do_not_reach_the_server(
    envoy: Envoy, upstream: tuple[int, Seen], body: str, path: str, status: int, expected: str
) -> None:
    seen = upstream[1]
    seen.clear()
    found, answer = envoy.post(body, path)
    assert (found, answer.get("decision") or answer["error"]["code"]) == (status, expected)
    assert seen == []


PARTIAL = {"max_request_bytes": 64, "pack_as_bytes": True, "allow_partial_message": True}


@pytest.mark.parametrize(
    ("kind", "body", "problem"),
    [
        ("grpc", PARTIAL, "truncated"),
        ("http", PARTIAL, "truncated"),
        ("grpc", {"max_request_bytes": 8192}, "pack_as_bytes"),
        ("grpc", None, "with_request_body"),
        ("http", None, "with_request_body"),
    ],
)
def test_incomplete_body_is_denied(
    kind: str, body: Any, problem: str, gateway: Gateway, upstream: tuple[int, Seen], tmp_path: Path
) -> None:
    seen = upstream[1]
    seen.clear()
    envoy = Envoy(tmp_path, kind, PROXY, gateway.port, upstream[0], with_request_body=body)
    try:
        status, answer = envoy.post(json.dumps({"amount": 1, "note": "x" * 100}))
        assert status == 400
        assert problem in answer["error"]["message"]
        assert seen == []
    finally:
        envoy.stop()


def test_approved_request_reaches_the_server_once(envoy: Envoy, gateway: Gateway, upstream: tuple[int, Seen]) -> None:
    seen = upstream[1]
    seen.clear()
    body = json.dumps({"amount": 15000, "order": envoy.kind})
    status, answer = envoy.post(body)
    assert (status, answer["decision"]) == (403, "require_approval")
    approval = answer["approval_request_id"]
    assert envoy.post(body)[1]["approval_request_id"] == approval
    gateway.call("POST", f"/api/v1/approvals/{approval}/approve", OPERATOR, {})
    assert envoy.post(body)[0] == 200
    assert len(seen) == 1
    assert envoy.post(body)[0] == 403
    assert len(seen) == 1


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_failed_authorization_is_a_denial_even_if_envoy_may_ignore_it(
    kind: str, gateway: Gateway, upstream: tuple[int, Seen], tmp_path: Path
) -> None:
    seen = upstream[1]
    seen.clear()
    envoy = Envoy(tmp_path, kind, "apk_unknown", gateway.port, upstream[0], failure_mode_allow=True)
    try:
        status, answer = envoy.post('{"amount": 4900}')
        assert (status, answer["error"]["code"]) == (403, "unauthenticated")
        assert seen == []
    finally:
        envoy.stop()


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_unreachable_gateway_denies(kind: str, upstream: tuple[int, Seen], tmp_path: Path) -> None:
    seen = upstream[1]
    seen.clear()
    folder = tmp_path / "gateway"
    folder.mkdir()
    own = Gateway(folder, POLICY)
    envoy = Envoy(tmp_path, kind, PROXY, own.port, upstream[0])
    try:
        assert envoy.post('{"amount": 4900}')[0] == 200
        own.process.kill()
        own.process.wait(30)
        assert envoy.post('{"amount": 4900}')[0] == 403
        assert len(seen) == 1
    finally:
        envoy.stop()
