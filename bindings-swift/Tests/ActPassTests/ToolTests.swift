import ActPass
import ActPassTesting
import XCTest

/// Tools of an agent, scopes, and values in place of a blocked result.
final class ToolTests: XCTestCase {
    private static let refund = "stripe.refund.create"
    private let runs = Counter()

    /// An agent with a guarded and an unguarded tool.
    private func tools(
        _ gateway: ScriptedGateway, _ action: ToolAction = ToolAction(refund, goal: "refund for {customer}"),
        onBlocked: (@Sendable (ActionBlockedError) async throws -> String)? = nil
    ) throws -> ActPass.ProtectedTools<String> {
        try gateway.client().protectTools(
            [
                "refund": { [runs] args, context in
                    runs.count()
                    return "refunded \(args["amount"] ?? 0) by \(context?.decision.word.rawValue ?? "nobody")"
                },
                "time": { _, context in "12:00 \(context == nil)" },
            ],
            actions: ["refund": .action(action), "time": .unguarded],
            onBlocked: onBlocked)
    }

    func testAProtectedToolRunsWithItsAction() async throws {
        let gateway = ScriptedGateway()
        gateway.answer(.allow())
        let action = ToolAction(
            Self.refund, goal: "refund for {customer}", resource: .function { "charge:\($0["charge"]?.stringValue ?? "")" },
            userID: "u_1", mode: .strict, audience: "a", recordOutcome: true)
        let tools = try tools(gateway, action)
        let args: JSONValue = ["amount": 4900, "customer": "c_{1}", "charge": "ch_1"]
        let said = try await tools["refund"](args)
        XCTAssertEqual(said, "refunded 4900 by allow")
        XCTAssertEqual(tools.names, ["refund", "time"])
        let sent = gateway.actions[0]
        XCTAssertEqual(sent["goal"], "refund for c_{1}")
        XCTAssertEqual(sent["resource"], "charge:ch_1")
        XCTAssertEqual(sent["tool"], "stripe.refund.create")
        XCTAssertEqual(sent["args"], args)
        XCTAssertEqual([sent["user_id"], sent["mode"], sent["audience"]], ["u_1", "strict", "a"])
        XCTAssertEqual(gateway.evidence.count, 1)
        XCTAssertEqual(gateway.executions.map(\.args), [args])

        let time = try await tools.call("time", [:])
        XCTAssertEqual(time, "12:00 true")
        XCTAssertEqual(gateway.actions.count, 1, "an unguarded tool sends nothing")
    }

    func testAToolSendsTheSelectedArguments() async throws {
        let gateway = ScriptedGateway()
        gateway.answer(.allow())
        let action = ToolAction(
            Self.refund, goal: "refund for {customer}", args: { ["amount": $0["amount"] ?? .null] },
            approvalRequestID: { $0["approval"]?.stringValue })
        let said = try await tools(gateway, action).call("refund", ["amount": 1, "customer": "c", "approval": "apr_1"])
        XCTAssertEqual(said, "refunded 1 by allow")
        XCTAssertEqual(gateway.actions[0]["args"], ["amount": 1])
        XCTAssertEqual(gateway.actions[0]["goal"], "refund for c")
        XCTAssertEqual(gateway.actions[0]["approval_request_id"], "apr_1")
    }

    func testADeniedToolRunsZeroTimes() async throws {
        let gateway = ScriptedGateway()
        let tools = try tools(gateway)
        for answer in [ScriptedGateway.Answer.deny(), .requireApproval(), .unreachable, .failure(status: 500), .warn()] {
            gateway.answer(answer)
            let blocked = try await blockedBy { try await tools.call("refund", ["amount": 1, "customer": "c"]) }
            XCTAssertEqual(blocked.tool, Self.refund)
        }
        XCTAssertEqual(runs.total, 0)
        try gateway.assertNotExecuted(Self.refund)
    }

    func testAnUnmappedToolIsDenied() async throws {
        let gateway = ScriptedGateway()
        gateway.answer(.allow())
        let throwing = try tools(gateway)
        let blocked = try await blockedBy { try await throwing["delete_account"](["id": 1]) }
        XCTAssertEqual(blocked.code, "actpass.unmapped_tool")
        XCTAssertEqual(blocked.decision.explain.summary, "No action is mapped to this tool.")
        XCTAssertEqual(
            blocked.message,
            "delete_account was not run: deny (actpass.unmapped_tool). The tool is not available to this agent. Do not call it again.")
        let telling = try tools(gateway, onBlocked: { $0.code })
        let code = try await telling.call("delete_account", [:])
        XCTAssertEqual(code, "actpass.unmapped_tool")
        XCTAssertEqual(gateway.actions.count, 0)
    }

    func testTheMappingCoversEachTool() throws {
        let client = try ScriptedGateway().client()
        let tool: ActPass.Tool<Int> = { _, _ in 1 }
        for (tools, actions, problem) in [
            (["a", "b", "c"], ["b"], "tools without an action: a, c"),
            (["a"], ["a", "d", "e"], "actions without a tool: d, e"),
            (["a"], ["b"], "tools without an action: a; actions without a tool: b"),
        ] {
            XCTAssertThrowsError(
                try client.protectTools(
                    Dictionary(uniqueKeysWithValues: tools.map { ($0, tool) }),
                    actions: Dictionary(uniqueKeysWithValues: actions.map { ($0, .unguarded) }))
            ) {
                XCTAssertEqual(($0 as? ActPassError)?.kind, .argument)
                XCTAssertTrue("\($0)".hasPrefix("actions: expected an action, ") && "\($0)".hasSuffix("; \(problem)"), "\($0)")
            }
        }
    }

    func testTemplates() async throws {
        let gateway = ScriptedGateway()
        gateway.answer(.allow())
        for (template, args, goal) in [
            ("fixed", [:], "fixed"), ("{{{a}}}", ["a": "x"], "{x}"), ("{a}-{b}", ["a": -7, "b": "{c}"], "-7-{c}"),
        ] as [(String, JSONValue, String)] {
            _ = try await tools(gateway, ToolAction("t", goal: .template(template))).call("refund", args)
            XCTAssertEqual(gateway.actions.last?["goal"]?.stringValue, goal)
        }
        for (args, found) in [
            ([:], "nothing"), (["a": 1.5], "a number"), (["a": true], "a boolean"), (["a": ["b"]], "an array"),
            (["a": 9_007_199_254_740_993], "a number"),
        ] as [(JSONValue, String)] {
            let tools = try tools(gateway, ToolAction("t", goal: "g", resource: "charge:{a}"))
            let error = try await failure { try await tools.call("refund", args) }
            XCTAssertEqual(error.message, "resource: expected a as a string or an integer, found \(found)")
        }
        for malformed in ["{", "}", "{a", "{}", "{a b}", "{a.b}", "{1}", "a}b"] {
            XCTAssertThrowsError(try tools(gateway, ToolAction("t", goal: .template(malformed)))) {
                XCTAssertTrue("\($0)".hasPrefix("goal: expected names of arguments in braces"), "\($0)")
            }
        }
        XCTAssertEqual(runs.total, 3)
    }

    func testTheErrorOfAToolPropagates() async throws {
        struct Broken: Error {}
        let gateway = ScriptedGateway()
        gateway.answer(.allow())
        let mapping: [String: ActPass.ToolMapping] = ["a": .action(ToolAction("t", goal: "g")), "b": .unguarded]
        let broken: ActPass.Tool<Int> = { _, _ in throw Broken() }
        let tools = try gateway.client().protectTools(["a": broken, "b": broken], actions: mapping, onBlocked: { _ in 0 })
        for name in ["a", "b"] {
            do {
                let value = try await tools.call(name, [:])
                XCTFail("\(value)")
            } catch is Broken {}
        }
        // A block inside the tool is the tool's own error.
        let inner: ActPass.Tool<Int> = { _, _ in throw ActionBlockedError(tool: "inner", decision: try Decision(["decision": "deny"])) }
        let nested = try gateway.client().protectTools(["a": inner, "b": inner], actions: mapping, onBlocked: { _ in 0 })
        let blocked = try await blockedBy { try await nested.call("a", [:]) }
        XCTAssertEqual(blocked.tool, "inner")
    }

    func testOnBlockedReplacesTheResult() async throws {
        let gateway = ScriptedGateway()
        let client = try gateway.client()
        let action = Action(goal: "g", tool: "t")
        gateway.answerNext(.allow(), .deny(), .unreachable)
        var said: [String] = []
        for _ in 0..<3 {
            said.append(try await client.guard(action, onBlocked: { $0.code }) { _ in "refunded" })
        }
        XCTAssertEqual(said, ["refunded", "test.deny", "actpass.unreachable"])
        try gateway.assertExecuted("t", times: 1)
        gateway.answer(.allow())
        do {
            let value = try await client.guard(action, onBlocked: { _ in 0 }) { _ -> Int in throw Problem("no card") }
            XCTFail("\(value)")
        } catch let error as Problem {
            XCTAssertEqual("\(error)", "no card")
        }
    }

    func testAScopeGivesActionsItsDefaults() async throws {
        let gateway = ScriptedGateway()
        gateway.answer(.allow())
        let client = try gateway.client()
        let other = try gateway.client()
        func sent(_ name: String) -> JSONValue? { gateway.actions.last?[name] }
        try await client.bind(goal: "outer", userID: "u_7", passport: passport, mode: .strict, audience: "a") {
            _ = try await client.guard(Action(goal: "", tool: "t")) { _ in 1 }
            XCTAssertEqual([sent("goal"), sent("user_id"), sent("mode"), sent("audience")], ["outer", "u_7", "strict", "a"])
            XCTAssertEqual(sent("passport"), .string(passport))
            _ = try await client.guard(Action(goal: "own", tool: "t", userID: "u_1", mode: .enforce)) { _ in 1 }
            XCTAssertEqual([sent("goal"), sent("user_id"), sent("mode")], ["own", "u_1", "enforce"])
            try await client.bind(userID: "u_8") {
                async let child = client.withOptions(maxRetries: 1).preflight(Action(goal: "", tool: "t"))
                _ = try await child
                XCTAssertEqual([sent("goal"), sent("user_id")], ["outer", "u_8"])
            }
            _ = try await other.preflight(Action(goal: "g", tool: "t"))
            XCTAssertEqual(sent("user_id"), .null)
            let tool: ActPass.Tool<Int> = { _, _ in 1 }
            let tools = try client.protectTools(["a": tool], actions: ["a": .action(ToolAction("t"))])
            _ = try await tools.call("a", [:])
            XCTAssertEqual([sent("goal"), sent("user_id")], ["outer", "u_7"])
        }
        _ = try await client.preflight(Action(goal: "g", tool: "t"))
        XCTAssertEqual(sent("user_id"), .null)
        let error = try await failure { try await client.preflight(Action(goal: "", tool: "t")) }
        XCTAssertEqual(error.message, "goal: expected a non-empty string")
    }

    func testScopesOfConcurrentTasksAreSeparate() async throws {
        let gateway = ScriptedGateway()
        gateway.answer(.allow())
        let client = try gateway.client()
        try await concurrently(100, width: 8) { number in
            try await client.bind(userID: "u_\(number)") {
                await Task.yield()
                _ = try await client.guard(Action(goal: "g\(number)", tool: "t")) { _ in number }
            }
        }
        XCTAssertEqual(gateway.actions.count, 100)
        for action in gateway.actions {
            XCTAssertEqual(action["user_id"]?.stringValue?.dropFirst(2), action["goal"]?.stringValue?.dropFirst(1))
        }
    }

    func testASuspendedActionIsRecorded() async throws {
        let gateway = ScriptedGateway()
        gateway.answer(.allow())
        let client = try gateway.client()
        for recordOutcome in [false, true] {
            let permit = try await client.authorize(Action(goal: "g", tool: "t"), recordOutcome: recordOutcome).unwrap()
            _ = try await failure { try permit.suspended() }
            _ = try permit.spend()
            XCTAssertEqual(try permit.suspended().decision.reasonCode, "test.allow")
            _ = try await failure { try permit.cancelled() }
        }
        for _ in 0..<2_000 where gateway.evidence.isEmpty { try await Task.sleep(for: .milliseconds(5)) }
        XCTAssertEqual(gateway.evidence.map { $0["metadata"]?["ended"] }, ["suspended"])
    }

    private func blockedBy<T>(_ body: () async throws -> T) async throws -> ActionBlockedError {
        do {
            throw Problem("returned \(try await body())")
        } catch let blocked as ActionBlockedError {
            return blocked
        }
    }
}
