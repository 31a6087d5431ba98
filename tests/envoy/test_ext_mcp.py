"""Call the policy server for MCP as agentgateway does, with messages of an independent library."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2
from support import OPERATOR, PROXY, Gateway, policy, running

SERVICE = "agentgateway.dev.ext_mcp.ExtMcp"
POLICY = policy("args.amount", {"path": "tool", "operator": "==", "value": "stripe.refund"})

#: Messages of `ext_mcp.proto`: the number, type and label of each field.
MESSAGES: dict[str, dict[str, tuple[int, str, str]]] = {
    "McpRequest": {
        "service_names": (1, "string", "repeated"),
        "method": (2, "string", ""),
        "metadata_context": (3, ".google.protobuf.Struct", ""),
        "mcp_request": (4, "bytes", ""),
    },
    "McpResponse": {"method": (2, "string", ""), "mcp_response": (4, "bytes", "")},
    "McpRequestResult": {
        "pass": (1, ".ext_mcp.Pass", ""),
        "mutated": (2, "bytes", ""),
        "error": (3, ".ext_mcp.AuthorizationError", ""),
        "header_mutation": (4, ".ext_mcp.HeaderMutation", ""),
    },
    "McpResponseResult": {"pass": (1, ".ext_mcp.Pass", ""), "error": (3, ".ext_mcp.AuthorizationError", "")},
    "HeaderMutation": {"set": (1, ".ext_mcp.McpHeader", "repeated")},
    "McpHeader": {"key": (1, "string", ""), "value": (2, "bytes", "")},
    "Pass": {},
    "AuthorizationError": {"code": (1, "int32", ""), "reason": (2, "string", ""), "mcp_error": (3, "bytes", "")},
}


def classes() -> dict[str, Any]:
    """Return the classes of the messages."""
    types = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="ext_mcp.proto", package="ext_mcp", syntax="proto3")
    file.dependency.append(struct_pb2.DESCRIPTOR.name)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, label) in fields.items():
            added = message.field.add(name=field, number=number)
            added.label = types.LABEL_REPEATED if label else types.LABEL_OPTIONAL
            if kind.startswith("."):
                added.type, added.type_name = types.TYPE_MESSAGE, kind
            else:
                added.type = getattr(types, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.Default()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"ext_mcp.{name}")) for name in MESSAGES}


CLASSES = classes()


class Client:
    """Calls the policy server with an API key."""

    def __init__(self, port: int, key: str) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.key = key

    def call(self, method: str, message: Any, result: str) -> Any:
        function = self.channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=lambda sent: sent if isinstance(sent, bytes) else sent.SerializeToString(),
            response_deserializer=CLASSES[result].FromString,
        )
        return function(message, metadata=[("authorization", f"Bearer {self.key}")], timeout=30)

    def check(self, params: Any, **metadata: str) -> Any:
        context = struct_pb2.Struct()
        context.update(metadata)
        request = CLASSES["McpRequest"](
            service_names=["stripe"],
            method="tools/call",
            metadata_context=context,
            mcp_request=params.encode() if isinstance(params, str) else json.dumps(params).encode(),
        )
        return self.call("CheckRequest", request, "McpRequestResult")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("gateway"), POLICY) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[Client]:
    made = Client(gateway.port, PROXY)
    yield made
    made.channel.close()


def refund(amount: int, **more: Any) -> dict[str, Any]:
    return {"name": "refund", "arguments": {"amount": amount, **more}}


def test_allowed_call_passes_with_its_event(client: Client, gateway: Gateway) -> None:
    result = client.check(refund(4900), agent_id="support", user_id="alice")
    assert result.HasField("pass")
    event = gateway.events()[-1]
    [header] = result.header_mutation.set
    assert (header.key, header.value.decode()) == ("x-actpass-event", event["event_id"])
    found = (event["protocol"], event["tool_id"], event["agent_id"], event["user_id"])
    assert found == ("ext_mcp", "stripe.refund", "support", "alice")


@pytest.mark.parametrize(
    ("params", "code", "expected"),
    [
        (refund(90000), 1, "deny"),
        ({"name": "payout", "arguments": {"amount": 90000}}, 1, "deny"),
        ('{"name": "refund", "arguments": {"amount": 1, "amount": 90000}}', 3, "invalid_member"),
        ("[]", 3, "invalid_member"),
    ],
)
def test_other_calls_are_errors(client: Client, params: Any, code: int, expected: str) -> None:
    result = client.check(params)
    assert not result.HasField("pass")
    assert result.error.code == code
    assert result.error.reason
    answer = json.loads(result.error.mcp_error)
    assert (answer.get("decision") or answer["error"]["code"]) == expected


def test_approved_call_passes_once(client: Client, gateway: Gateway) -> None:
    answer = json.loads(client.check(refund(15000)).error.mcp_error)
    assert answer["decision"] == "require_approval"
    gateway.call("POST", f"/api/v1/approvals/{answer['approval_request_id']}/approve", OPERATOR, {})
    assert client.check(refund(15000)).HasField("pass")
    assert client.check(refund(15000)).HasField("error")


def test_requests_without_an_action_and_responses_pass(client: Client, gateway: Gateway) -> None:
    before = len(gateway.events())
    request = CLASSES["McpRequest"](service_names=["stripe", "shop"], method="tools/list")
    assert client.call("CheckRequest", request, "McpRequestResult").HasField("pass")
    response = CLASSES["McpResponse"](method="tools/call", mcp_response=b"{}")
    assert client.call("CheckResponse", response, "McpResponseResult").HasField("pass")
    assert len(gateway.events()) == before


def test_unreadable_message_and_unknown_key_are_errors_of_the_protocol(client: Client, gateway: Gateway) -> None:
    """A gRPC error could let the call pass: agentgateway's `failureMode` decides."""
    result = client.call("CheckRequest", b"\xff\xff", "McpRequestResult")
    assert (result.HasField("pass"), result.error.code) == (False, 3)
    unknown = Client(gateway.port, "apk_unknown")
    result = unknown.check(refund(4900))
    unknown.channel.close()
    assert (result.HasField("pass"), result.error.code) == (False, 1)
