import ActPass
import Foundation
import XCTest

/// Each vector of `tests/vectors` in each of its modes; see the README there.
final class VectorTests: XCTestCase {
    private static let key = "apk_vector_secret"
    /// The default key of an action, so that every language sends the same request.
    private static let idempotencyKey = "vector_key"

    func testAllVectorsPass() async throws {
        let runs = try Self.vectors().flatMap(\.runs)
        let files = Set(runs.map(\.vector.name))
        for area in ["changes", "circuit", "dpop", "failures", "lost", "outcomes", "replays", "retries", "signed", "table", "texts"] {
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

    /// The differences from the expectations, and the result of the run, as a line.
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
            ca: settings["trust_ca"] == true ? gateway.ca : nil,
            approvalKeys: settings["approval_keys"]?.stringValue, dpopKey: settings["dpop_key"]?.stringValue)
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
        let seenContexts = Contexts()
        let outcome = try await guarded(client, action, vector, seenContexts)
        let contexts = seenContexts.all

        var problems: [String] = []
        func check(_ what: String, _ holds: Bool, _ found: Any) {
            if !holds { problems.append("expected \(what), found \(found)") }
        }
        let expected = run.expected
        let executed = expected["executed"] == true
        check("\(executed ? 1 : 0) runs", contexts.count == (executed ? 1 : 0), contexts.count)
        check("stopped", (outcome == nil) == (executed && ["cancelled", "suspended"].contains(vector.ends)), outcome as Any)
        guard let reported = outcome?.decision ?? contexts.first?.decision else { throw Problem("no decision") }
        for (name, value) in expected["decision"]?.objectValue ?? [:] {
            check("the decision's \(name): \(value)", reported[name] == value, reported.json)
        }
        let decision = try JSONValue(parsing: reported.json)
        check("all members", reported.members == decision.objectValue, reported.members)
        let canonical = try outcome?.canonicalJSON() ?? "null"
        let error = expected["error"] ?? .null
        if let outcome {
            check("executed \(executed)", outcome.executed == executed, outcome.executed)
            let end = #","error":\#(error.json),"executed":\#(executed)}"#
            check("the canonical outcome ends with \(end)", canonical.hasSuffix(end), canonical)
            let begin = #"{"decision":"#
            check("the canonical outcome begins with the decision", canonical.hasPrefix(begin), canonical)
            let inner = try JSONValue(parsing: String(canonical.dropFirst(begin.count).dropLast(end.count)))
            check("the decision in the canonical outcome", try ActPass.hashPayload(inner) == ActPass.hashPayload(decision), canonical)
            check("an error \(error)", (outcome.error == nil) == (error == .null), outcome.error as Any)
        }
        let gateError = outcome?.error as? ActPassError
        check("the error's status", gateError?.status == error["status"]?.intValue, gateError as Any)
        let tokens = contexts.map { $0.credential?.token }
        check("the credential", tokens == (executed ? [expected["credential"]?.stringValue] : []), tokens.count)

        if outcome == nil {
            // The background thread records a stop.
            for _ in 0..<2_000 where try gateway.seen().count != expected["requests_sent"]?.intValue {
                try await Task.sleep(for: .milliseconds(5))
            }
        }
        let sent = try gateway.seen()
        check("\(expected["requests_sent"] ?? .null) requests", sent.count == expected["requests_sent"]?.intValue, sent)
        let events = sent.filter { $0["path"] == "/api/v1/evidence/events" }
        let seen = sent.filter { $0["path"] != "/api/v1/evidence/events" }
        check("at most one event", events.count <= 1, events)
        let recorded = try events.first.map { try JSONValue(parsing: $0["body"]?.stringValue ?? "") }
        check("an event as expected", (recorded == nil) == (expected["recorded"] == nil), recorded as Any)
        for (name, value) in expected["recorded"]?.objectValue ?? [:] {
            check("the recorded \(name): \(value)", recorded?[name] == value, recorded as Any)
        }
        for request in seen {
            check("a preflight", request["method"] == "POST" && request["path"] == "/api/v1/actions/preflight", request)
            let headers = request["headers"]?.arrayValue ?? []
            let hasProof = vector.client["dpop_key"] != nil
            let credentials = "\(hasProof ? "DPoP" : "Bearer") \(Self.key)"
            check("the key", headers.contains(["authorization", .string(credentials)]), headers.count)
            check("the proof", headers.contains { $0.arrayValue?.first == "dpop" } == hasProof, headers.count)
            let same = request["body"] == seen[0]["body"] || (vector.callsBefore > 0 && key == nil)
            check("the same body again", same, request)
            let sent = try JSONValue(parsing: request["body"]?.stringValue ?? "")["idempotency_key"]?.stringValue
            check("the idempotency key", key == nil ? sent?.utf8.count == 36 : sent == key, sent as Any)
        }
        check("nothing at the other host", try gateway.otherSeen().isEmpty, "something")
        let (thrown, blocked) = Self.thrown(by: outcome)
        check("a block", (thrown == nil) == executed, outcome as Any)
        for (name, value) in expected["blocked"]?.objectValue ?? [:] {
            check("the block's \(name): \(value)", blocked[name] == value, blocked)
        }
        // Every secret in a vector contains this word. The test compares only their number, so that a failure prints none.
        let everything: [Any] = [client, action, outcome as Any, contexts, gateError as Any, thrown as Any]
        let shown = blocked.json + (vector.gatewayEchoes ? "" : everything.map(everythingShown).joined() + canonical)
        let leaks = shown.components(separatedBy: "secret").count - 1
        check("no secret to show", leaks == 0, leaks)
        var comparable = blocked
        // The text of the gate's error may depend on timing.
        if thrown != nil && error != .null { comparable["developer"] = .null }
        let line =
            #"{"blocked":\#(comparable),"circuit_off":\#(run.circuitOff),"leaks":\#(leaks),"mode":"\#(run.mode)","#
            + #""outcome":\#(canonical),"recorded":\#(recorded ?? .null),"requests_sent":\#(sent.count),"#
            + #""runs":\#(contexts.count),"vector":"\#(vector.name)"}"#
        return (problems, line + "\n")
    }

    /// Guards the action and ends it as the vector defines; `nil` if it was stopped.
    private static func guarded(
        _ client: ActPass, _ action: Action, _ vector: Vector, _ contexts: Contexts
    ) async throws -> Outcome<JSONValue>? {
        if vector.isUnmapped {
            let tools: [String: ActPass.Tool<JSONValue>] = [:]
            do {
                _ = try await client.protectTools(tools, actions: [:]).call(action.tool, action.args)
                throw Problem("an unmapped tool ran")
            } catch let blocked as ActionBlockedError {
                return .blocked(blocked)
            }
        }
        if vector.ends == "suspended" {
            let permit = try await client.authorize(action, recordOutcome: vector.recordOutcome).unwrap()
            contexts.append(try permit.spend())
            try permit.suspended()
            return nil
        }
        if let changed = vector.changedArgs {
            switch try await client.authorize(action, recordOutcome: vector.recordOutcome) {
            case .blocked(let blocked): return .blocked(blocked)
            case .permitted(let permit):
                do {
                    contexts.append(try permit.spend(args: changed))
                } catch let blocked as ActionBlockedError {
                    return .blocked(blocked)
                }
                if (try? permit.spend()) != nil { throw Problem("the permit was spent twice") }
                return .returned(.null, try await permit.returned(JSONValue.null))
            }
        }
        let call = Task {
            try await client.guard(action, recordOutcome: vector.recordOutcome) { context in
                contexts.append(context)
                switch vector.ends {
                case "failed": throw Problem("the card is closed")
                case "cancelled":
                    withUnsafeCurrentTask { $0?.cancel() }
                    try Task.checkCancellation()
                default: break
                }
                return JSONValue.null
            }
        }
        do {
            return try await call.value
        } catch is CancellationError {
            return nil
        }
    }

    /// The error that unwrapping the outcome throws, and its members in the line of the run.
    private static func thrown(by outcome: Outcome<JSONValue>?) -> (ActionBlockedError?, JSONValue) {
        do {
            _ = try outcome?.unwrap()
        } catch let blocked as ActionBlockedError {
            return (
                blocked,
                [
                    "approval": .init(blocked.approval?.id), "code": .string(blocked.code),
                    "developer": .string(blocked.developerText), "message": .string("\(blocked)"),
                    "retryable": .bool(blocked.isRetryable), "tool": .string(blocked.tool),
                ]
            )
        } catch {}
        return (nil, .null)
    }

    /// The contexts that the action of a run received, one per run.
    private final class Contexts: @unchecked Sendable {
        private let lock = NSLock()
        private var given: [ExecutionContext] = []

        var all: [ExecutionContext] { lock.withLock { given } }
        func append(_ context: ExecutionContext) { lock.withLock { given.append(context) } }
    }

    /// The result of each run, in the order of the runs.
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
        /// Whether the run has no circuit breaker, regardless of the vector.
        let circuitOff: Bool
        let expected: JSONValue
    }

    private struct Vector {
        let name: String
        let client: [String: JSONValue]
        let action: [String: JSONValue]
        let callsBefore: Int
        let recordOutcome: Bool
        let ends: String
        let changedArgs: JSONValue?
        let gatewayEchoes: Bool
        let isUnmapped: Bool
        let gateway: JSONValue
        let expect: [String: JSONValue]

        /// Each mode; for a failure, `enforce` and `monitor` again without a circuit breaker.
        var runs: [Run] {
            let again = name.hasPrefix("failures/") ? ["enforce", "monitor"] : []
            return expect.sorted { $0.key < $1.key }.flatMap { mode, expected in
                (again.contains(mode) ? [false, true] : [false]).map { off in
                    Run(vector: self, mode: mode, circuitOff: off, expected: expected)
                }
            }
        }
    }

    /// All vectors; rejects unknown members.
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
                .object(vector),
                ["client", "action", "calls_before", "record_outcome", "ends", "changed_args", "gateway_echoes", "unmapped"],
                needed: ["description", "gateway", "expect"])
            let ends = whole["ends"]?.stringValue ?? "returned"
            guard ["returned", "failed", "cancelled", "suspended"].contains(ends) else { throw Problem("\(name): ends \(ends)") }
            let expect = try members(whole["expect"], Set(Mode.allCases.map(\.rawValue)))
            guard !expect.isEmpty else { throw Problem("\(name): nothing is expected") }
            for expected in expect.values {
                let given = try members(
                    expected, ["credential", "recorded", "blocked"],
                    needed: ["executed", "decision", "error", "requests_sent"])
                if let error = given["error"], error != .null {
                    _ = try members(error, [], needed: ["kind", "status"])
                }
            }
            return Vector(
                name: name,
                client: try members(
                    whole["client"],
                    [
                        "timeout", "connect_timeout", "max_retries", "circuit_failures", "trust_ca", "approval_keys",
                        "dpop_key",
                    ]),
                action: try members(
                    whole["action"],
                    [
                        "goal", "tool", "resource", "args", "user_id", "passport", "idempotency_key", "audience",
                        "approval_request_id", "tool_manifest_hash",
                    ]),
                callsBefore: whole["calls_before"]?.intValue ?? 0,
                recordOutcome: whole["record_outcome"] == true,
                ends: ends,
                changedArgs: whole["changed_args"],
                gatewayEchoes: whole["gateway_echoes"] == true,
                isUnmapped: whole["unmapped"] == true,
                gateway: whole["gateway"] ?? .null,
                expect: expect)
        }
    }
}
