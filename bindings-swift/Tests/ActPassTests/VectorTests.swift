import ActPass
import Foundation
import XCTest

/// Each vector of `tests/vectors` in each mode that it names; see the README there.
final class VectorTests: XCTestCase {
    private static let key = "apk_vector_secret"

    func testEveryVector() async throws {
        let runs = try Self.vectors().flatMap { vector in vector.expect.map { Run(vector: vector, mode: $0, expected: $1) } }
        let files = Set(runs.map(\.vector.name))
        for area in ["failures", "table", "retries"] {
            XCTAssertTrue(files.contains { $0.hasPrefix(area + "/") }, "no vectors in \(area)")
        }
        let done = Counter()
        try await concurrently(runs.count, width: 6) { at in
            for problem in try await Self.play(runs[at]) {
                XCTFail("\(runs[at].vector.name) in \(runs[at].mode): \(problem)")
            }
            done.count(at)
        }
        XCTAssertEqual(done.all, Dictionary(uniqueKeysWithValues: runs.indices.map { ($0, 1) }))
        print("\(files.count) vectors, \(done.total) runs passed")
    }

    private static func play(_ run: Run) async throws -> [String] {
        let vector = run.vector
        let gateway = try Hostile.play(vector.gateway)
        defer { gateway.stop() }
        let settings = vector.client
        let client = try ActPass(
            apiKey: key, agentID: "vectors", baseURL: gateway.baseURL,
            timeout: .seconds(settings["timeout"]?.doubleValue ?? 5),
            connectTimeout: (settings["connect_timeout"]?.doubleValue).map { .seconds($0) },
            maxRetries: settings["max_retries"]?.intValue ?? 0,
            certificateAuthorities: settings["trust_ca"] == true ? gateway.ca : nil)
        let member = { vector.action[$0]?.stringValue }
        let action = Action(
            goal: member("goal") ?? "resolve_refund_request", tool: member("tool") ?? "stripe.refund.create",
            resource: member("resource") ?? "stripe:charge:ch_123",
            args: vector.action["args"] ?? ["amount": 4900, "currency": "usd"], userID: member("user_id"),
            passport: member("passport"), mode: Mode(rawValue: run.mode),
            idempotencyKey: member("idempotency_key"), audience: member("audience"),
            approvalRequestID: member("approval_request_id"), toolManifestHash: member("tool_manifest_hash"))
        var contexts: [ExecutionContext] = []
        let outcome = try await client.guard(action) { context in
            contexts.append(context)
            return "done"
        }

        var problems: [String] = []
        func check(_ what: String, _ holds: Bool, _ found: Any) {
            if !holds { problems.append("expected \(what), found \(found)") }
        }
        let expected = run.expected
        let executed = expected["executed"] == true
        check("\(executed ? 1 : 0) runs", contexts.count == (executed ? 1 : 0), contexts.count)
        check("executed \(executed)", outcome.wasExecuted == executed, outcome.wasExecuted)
        check("the result", outcome.value == (executed ? "done" : nil), outcome.value as Any)
        for (name, value) in expected["decision"]?.objectValue ?? [:] {
            check("the decision's \(name): \(value)", outcome.decision[name] == value, outcome.decision.json)
        }
        let decision = try JSONValue(parsing: outcome.decision.json)
        check("all members", outcome.decision.members == decision.objectValue, outcome.decision.members)
        let canonical = try outcome.canonicalJSON()
        let error = expected["error"] ?? .null
        let end = #","error":\#(error.json),"executed":\#(executed)}"#
        check("the canonical outcome ends with \(end)", canonical.hasSuffix(end), canonical)
        let begin = #"{"decision":"#
        check("the canonical outcome begins with the decision", canonical.hasPrefix(begin), canonical)
        let inner = try JSONValue(parsing: String(canonical.dropFirst(begin.count).dropLast(end.count)))
        check("the very decision", try ActPass.hashPayload(inner) == ActPass.hashPayload(decision), canonical)
        let gateError = outcome.error as? ActPassError
        check("an error \(error)", (gateError == nil) == (error == .null), gateError as Any)
        check("the error's status", gateError?.status == error["status"]?.intValue, gateError as Any)
        let tokens = contexts.map { $0.credential?.token }
        check("the credential", tokens == (executed ? [expected["credential"]?.stringValue] : []), tokens.count)

        let seen = try gateway.seen()
        check("\(expected["requests_sent"] ?? .null) requests", seen.count == expected["requests_sent"]?.intValue, seen)
        for request in seen {
            check("a preflight", request["method"] == "POST" && request["path"] == "/api/v1/actions/preflight", request)
            let headers = request["headers"]?.arrayValue ?? []
            check("the key", headers.contains(["authorization", .string("Bearer \(key)")]), headers.count)
            check("the same body again", request["body"] == seen[0]["body"], request)
            let body = try JSONValue(parsing: request["body"]?.stringValue ?? "")
            check("an idempotency key", body["idempotency_key"]?.stringValue?.isEmpty == false, body)
        }
        check("nothing at the other host", try gateway.otherSeen().isEmpty, "something")
        // Every secret in a vector holds this word. It is not shown where a test fails either.
        let shown = [client, action, outcome, contexts, gateError as Any].map(everythingShown).joined() + canonical
        check("no secret to show", !shown.contains("secret"), "one")
        return problems
    }

    private struct Run {
        let vector: Vector
        let mode: String
        let expected: JSONValue
    }

    private struct Vector {
        let name: String
        let client: [String: JSONValue]
        let action: [String: JSONValue]
        let gateway: JSONValue
        let expect: [String: JSONValue]
    }

    /// All vectors; what no vector has is refused.
    private static func vectors() throws -> [Vector] {
        let root = URL(fileURLWithPath: #filePath).appendingPathComponent("../../../../tests/vectors").standardized
        let files = FileManager.default.enumerator(at: root, includingPropertiesForKeys: nil)
        let paths = (files?.allObjects ?? []).compactMap { $0 as? URL }.filter { $0.pathExtension == "json" }
        return try paths.sorted { $0.path < $1.path }.map { path in
            let name = path.deletingPathExtension().pathComponents.suffix(2).joined(separator: "/")
            let text = try String(contentsOf: path, encoding: .utf8)
            let vector = try JSONValue(parsing: text).objectValue ?? [:]
            func members(_ value: JSONValue?, _ known: Set<String>, needed: Set<String> = []) throws -> [String: JSONValue] {
                let members = value?.objectValue ?? [:]
                guard needed.isSubset(of: members.keys), known.union(needed).isSuperset(of: members.keys) else {
                    throw Problem("\(name): \(members.keys.sorted())")
                }
                return members
            }
            let whole = try members(
                .object(vector), ["client", "action"], needed: ["description", "gateway", "expect"])
            let expect = try members(whole["expect"], Set(Mode.allCases.map(\.rawValue)))
            guard !expect.isEmpty else { throw Problem("\(name): nothing is expected") }
            for expected in expect.values {
                let given = try members(
                    expected, ["credential"], needed: ["executed", "decision", "error", "requests_sent"])
                if let error = given["error"], error != .null {
                    _ = try members(error, [], needed: ["kind", "status"])
                }
            }
            return Vector(
                name: name,
                client: try members(whole["client"], ["timeout", "connect_timeout", "max_retries", "trust_ca"]),
                action: try members(
                    whole["action"],
                    [
                        "goal", "tool", "resource", "args", "user_id", "passport", "idempotency_key", "audience",
                        "approval_request_id", "tool_manifest_hash",
                    ]),
                gateway: whole["gateway"] ?? .null,
                expect: expect)
        }
    }
}
