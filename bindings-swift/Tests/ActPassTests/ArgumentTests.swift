import ActPass
import XCTest

/// What cannot be sent or set, and JSON.
final class ArgumentTests: XCTestCase {
    func testWhatCannotBeSentIsNamedAndRunsNothing() async throws {
        let gateway = try Hostile.play(steps: answer(allow))
        defer { gateway.stop() }
        let runs = Counter()
        let deep = (0..<128).reduce(JSONValue.null) { inner, _ in ["a": inner] }
        let cases: [(String, @Sendable (inout Action) -> Void)] = [
            ("goal: expected a non-empty string", { $0.goal = "" }),
            ("tool: expected a non-empty string", { $0.tool = "" }),
            ("args: expected an object", { $0.args = [1] }),
            ("args: expected an object", { $0.args = nil }),
            ("args", { $0.args = ["amount": JSONValue(Double.nan)] }),
            ("args", { $0.args = ["amount": JSONValue(Double.infinity)] }),
            ("args", { $0.args = deep }),
            ("idempotency_key: expected a non-empty string", { $0.idempotencyKey = "" }),
            ("wait_for_approval: expected seconds from 0", { $0.waitForApproval = .seconds(-1) }),
        ]
        for mode in Mode.allCases {
            let client = try ActPass.quick(gateway.baseURL, mode: mode)
            for (message, change) in cases {
                var action = refund
                change(&action)
                let asked = action
                let guarded = try await failure { try await client.guard(asked) { _ in runs.count() } }
                let asking = try await failure { try await client.preflight(asked) }
                for error in [guarded, asking] {
                    XCTAssertEqual(error.kind, .argument)
                    XCTAssertEqual(error.code, "actpass.invalid_argument")
                    XCTAssertTrue(error.message.hasPrefix(message), error.message)
                }
            }
        }
        XCTAssertEqual(runs.total, 0)
        XCTAssertEqual(try gateway.seen().count, 0)
    }

    /// No depth of nesting exhausts the stack on the way to the core, which refuses it.
    func testAVeryDeepArgumentIsRefused() async throws {
        var action = refund
        action.args = (0..<2_000).reduce(JSONValue.null) { inner, _ in ["a": inner] }
        let (client, asked) = (try ActPass.quick("http://127.0.0.1:9"), action)
        let error = try await failure { try await client.preflight(asked) }
        XCTAssertEqual(error.kind, .argument)
    }

    func testSettingsThatAreWrongAreNamed() throws {
        let cases: [(String, () throws -> ActPass)] = [
            ("api_key", { try ActPass(apiKey: "") }),
            ("base_url", { try ActPass(apiKey: "apk_x", baseURL: "gateway") }),
            ("base_url", { try ActPass(apiKey: "apk_x", baseURL: "http://gateway.example") }),
            ("timeout", { try ActPass(apiKey: "apk_x", timeout: .zero) }),
            ("timeout", { try ActPass(apiKey: "apk_x", timeout: .seconds(-1)) }),
            ("connect_timeout", { try ActPass(apiKey: "apk_x", connectTimeout: .zero) }),
            ("max_retries", { try ActPass(apiKey: "apk_x", maxRetries: -1) }),
            ("max_retries", { try ActPass(apiKey: "apk_x", maxRetries: .max) }),
            ("circuit_failures", { try ActPass(apiKey: "apk_x", circuitFailures: -1) }),
            ("tenant_id", { try ActPass(apiKey: "apk_x", tenantID: "a\nb") }),
            ("ca", { try ActPass(apiKey: "apk_x", certificateAuthorities: "no PEM") }),
        ]
        for (member, make) in cases {
            XCTAssertThrowsError(try make(), member) { error in
                XCTAssertEqual((error as? ActPassError)?.kind, .config, "\(error)")
                XCTAssertTrue("\(error)".hasPrefix("\(member): "), "\(error)")
            }
        }
        XCTAssertNoThrow(
            try ActPass(apiKey: "apk_x", baseURL: "http://gateway.example", dangerAllowInsecureHTTP: true))
        let client = try ActPass(apiKey: apiKey, agentID: "tests", baseURL: "https://gateway.example/")
        XCTAssertEqual(client.baseURL, "https://gateway.example")
        XCTAssertEqual("\(client)", #"ActPass(baseURL: "https://gateway.example", agentID: "tests")"#)
        XCTAssertFalse(everythingShown(client).contains(apiKey))
        XCTAssertNil(Mode(rawValue: "Enforce"))
    }

    func testNothingShowsAPassport() throws {
        let action = Action(goal: "g", tool: "t", passport: passport)
        XCTAssertEqual(action.passport, passport)
        XCTAssertFalse(everythingShown(action).contains(passport))
    }

    func testHashes() throws {
        let hash = "b8254cdaf74420349cd61cd59255812d66cf264b642850b3746a88420ab48ca2"
        XCTAssertEqual(try ActPass.hashPayload(["currency": "usd", "amount": 4900]), hash)
        struct Refund: Encodable {
            var amount = 4900
            var currency = "usd"
        }
        XCTAssertEqual(try ActPass.hashPayload(Refund()), hash)
        XCTAssertEqual(try Action(goal: "g", tool: "t", args: Refund()).args, ["amount": 4900, "currency": "usd"])
        XCTAssertEqual(
            try ActPass.signPayload("payload", secret: "secret"),
            "d912ed098d037477e66ef16477113f9b07284bd18e6f8e93a183ab37cc5d1a2e")
        for payload: JSONValue in [9_007_199_254_740_992, .init(Double.nan), ["a": .init(UInt64.max)]] {
            XCTAssertThrowsError(try ActPass.hashPayload(payload)) {
                XCTAssertEqual(($0 as? ActPassError)?.kind, .argument)
            }
        }
        XCTAssertThrowsError(try ActPass.hashPayload([Double.nan])) {
            XCTAssertEqual(($0 as? ActPassError)?.kind, .argument)
        }
        XCTAssertThrowsError(try ActPass.hashPayload([UInt64.max]))
    }

    func testJSONComesBackAsItWas() throws {
        let text = #"{"a":[1,-2.50,1e400000000000,null,true,false],"b":"é\"\\\/\b\f\n\r\t\u0000😀","c":{}}"#
        XCTAssertThrowsError(try JSONValue(parsing: text), "beyond a double")
        let value = try JSONValue(parsing: text.replacingOccurrences(of: "1e400000000000", with: "12345678901234567890"))
        XCTAssertEqual(value["a"]?.arrayValue?.map(\.json), ["1", "-2.50", "12345678901234567890", "null", "true", "false"])
        XCTAssertEqual(value["b"]?.stringValue, "é\"\\/\u{8}\u{c}\n\r\t\0😀")
        XCTAssertEqual(try JSONValue(parsing: value.json), value)
        XCTAssertEqual(try JSONDecoder().decode(JSONValue.self, from: JSONEncoder().encode(value))["b"], value["b"])
        XCTAssertEqual(try JSONValue(parsing: "\"\\ud83d\\ude00\"").stringValue, "😀")
        XCTAssertEqual(try JSONValue(encoding: ["a": [1, nil, 3]]).json, #"{"a":[1,null,3]}"#)
        for wrong in ["", "{", "[1,]", #"{"a":1,"a":2}"#, #""\ud83d""#, "nan", "1 2", #"{"é":1,"e\u0301":2}"#] {
            XCTAssertThrowsError(try JSONValue(parsing: wrong), wrong) {
                XCTAssertEqual(($0 as? ActPassError)?.kind, .argument)
            }
        }
        let literal: JSONValue = ["i": 1, "d": 1.5, "b": true, "n": nil, "s": "x\(1)", "a": [1, "two"]]
        XCTAssertEqual(literal.json, #"{"a":[1,"two"],"b":true,"d":1.5,"i":1,"n":null,"s":"x1"}"#)
    }

    /// A name of this module can be given through the client where another module has the same.
    func testNamesThroughTheClient() throws {
        struct Action {}
        _ = Action()
        XCTAssertEqual(ActPass.Action(goal: "g", tool: "t").args, [:])
    }
}
