import ActPass
import Foundation
import XCTest

/// Each vector of `tests/vectors` in each mode that it names; see the README there.
final class VectorTests: XCTestCase {
    private static let key = "apk_vector_secret"
    /// Of an action that gives none, so that every language sends the same request.
    private static let idempotencyKey = "vector_key"

    func testEveryVector() async throws {
        let runs = try Self.vectors().flatMap(\.runs)
        let files = Set(runs.map(\.vector.name))
        for area in ["circuit", "failures", "replays", "retries", "table"] {
            XCTAssertTrue(files.contains { $0.hasPrefix(area + "/") }, "no vectors in \(area)")
        }
        let done = Counter()
        let lines = Lines()
        try await concurrently(runs.count, width: 6) { at in
            let fail = { (problem: String) in XCTFail("\(runs[at].vector.name) in \(runs[at].mode): \(problem)") }
            do {
                let (problems, line) = try await Self.play(runs[at])
                problems.forEach(fail)
                lines.keep(line, at: at)
            } catch {
                fail("threw \(error)")
            }
            done.count(at)
        }
        try lines.write("swift.jsonl")
        XCTAssertEqual(done.all, Dictionary(uniqueKeysWithValues: runs.indices.map { ($0, 1) }))
        print("\(files.count) vectors, \(done.total) runs passed")
    }

    /// Everything that is not as expected, and what came of the run, as a line.
    private static func play(_ run: Run) async throws -> ([String], String) {
        let vector = run.vector
        let gateway = try Hostile.play(vector.gateway)
        defer { gateway.stop() }
        let settings = vector.client
        let client = try ActPass(
            apiKey: key, agentID: "vectors", baseURL: gateway.baseURL,
            timeout: .seconds(settings["timeout"]?.doubleValue ?? 5),
            connectTimeout: (settings["connect_timeout"]?.doubleValue).map { .seconds($0) },
            maxRetries: settings["max_retries"]?.intValue ?? 0,
            circuitFailures: run.circuitOff ? 0 : settings["circuit_failures"]?.intValue ?? 5,
            certificateAuthorities: settings["trust_ca"] == true ? gateway.ca : nil)
        let member = { vector.action[$0]?.stringValue }
        let key = vector.action["idempotency_key"] == nil ? idempotencyKey : member("idempotency_key")
        let action = Action(
            goal: member("goal") ?? "resolve_refund_request", tool: member("tool") ?? "stripe.refund.create",
            resource: member("resource") ?? "stripe:charge:ch_123",
            args: vector.action["args"] ?? ["amount": 4900, "currency": "usd"], userID: member("user_id"),
            passport: member("passport"), mode: Mode(rawValue: run.mode),
            idempotencyKey: key, audience: member("audience"),
            approvalRequestID: member("approval_request_id"), toolManifestHash: member("tool_manifest_hash"))
        for _ in 0..<vector.callsBefore { _ = try await client.guard(action) { _ in "done" } }
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
            check("the key", headers.contains(["authorization", .string("Bearer \(Self.key)")]), headers.count)
            check("the same body again", request["body"] == seen[0]["body"], request)
            let sent = try JSONValue(parsing: request["body"]?.stringValue ?? "")["idempotency_key"]?.stringValue
            check("the idempotency key", key == nil ? sent?.utf8.count == 36 : sent == key, sent as Any)
        }
        check("nothing at the other host", try gateway.otherSeen().isEmpty, "something")
        // Every secret in a vector holds this word. It is not shown where a test fails either.
        let shown = [client, action, outcome, contexts, gateError as Any].map(everythingShown).joined() + canonical
        let leaks = shown.components(separatedBy: "secret").count - 1
        check("no secret to show", leaks == 0, leaks)
        let line =
            #"{"circuit_off":\#(run.circuitOff),"leaks":\#(leaks),"mode":"\#(run.mode)","outcome":\#(canonical),"#
            + #""requests_sent":\#(seen.count),"runs":\#(contexts.count),"vector":"\#(vector.name)"}"#
        return (problems, line + "\n")
    }

    /// What came of each run, in the order of the runs.
    private final class Lines: @unchecked Sendable {
        private let lock = NSLock()
        private var lines: [Int: String] = [:]

        func keep(_ line: String, at: Int) { lock.withLock { lines[at] = line } }

        func write(_ name: String) throws {
            guard let folder = ProcessInfo.processInfo.environment["ACTPASS_OUTCOMES"] else { return }
            try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
            let text = lock.withLock { lines.sorted { $0.key < $1.key }.map(\.value).joined() }
            try Data(text.utf8).write(to: URL(fileURLWithPath: folder).appendingPathComponent(name))
        }
    }

    private struct Run {
        let vector: Vector
        let mode: String
        /// Played without a circuit breaker, whatever the vector says of it.
        let circuitOff: Bool
        let expected: JSONValue
    }

    private struct Vector {
        let name: String
        let client: [String: JSONValue]
        let action: [String: JSONValue]
        let callsBefore: Int
        let gateway: JSONValue
        let expect: [String: JSONValue]

        /// Each mode; of a failure, the two that any failure has once more without a circuit breaker.
        var runs: [Run] {
            let again = name.hasPrefix("failures/") ? ["enforce", "monitor"] : []
            return expect.sorted { $0.key < $1.key }.flatMap { mode, expected in
                (again.contains(mode) ? [false, true] : [false]).map { off in
                    Run(vector: self, mode: mode, circuitOff: off, expected: expected)
                }
            }
        }
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
                .object(vector), ["client", "action", "calls_before"], needed: ["description", "gateway", "expect"])
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
                client: try members(
                    whole["client"], ["timeout", "connect_timeout", "max_retries", "circuit_failures", "trust_ca"]),
                action: try members(
                    whole["action"],
                    [
                        "goal", "tool", "resource", "args", "user_id", "passport", "idempotency_key", "audience",
                        "approval_request_id", "tool_manifest_hash",
                    ]),
                callsBefore: whole["calls_before"]?.intValue ?? 0,
                gateway: whole["gateway"] ?? .null,
                expect: expect)
        }
    }
}
