import ActPass
import XCTest

/// Invalid arguments and settings, and JSON.
final class ArgumentTests: XCTestCase {
    func testRejectsInvalidArgumentByPath() async throws {
        let gateway = try Hostile.play(steps: answer(allow))
        defer { gateway.stop() }
        let runs = Counter()
        let deep = (0..<128).reduce(JSONValue.null) { inner, _ in ["a": inner] }
        let cases: [(String, @Sendable (inout Action) -> Void)] = [
            ("goal: expected a non-empty string", { $0.goal = "" }),
            ("tool: expected a non-empty string", { $0.tool = "" }),
            ("args: expected an object", { $0.args = [1] }),
            ("args: expected an object", { $0.args = nil }),
            ("args.amount: expected a finite number, found NaN", { $0.args = ["amount": JSONValue(Double.nan)] }),
            ("args.amount: expected a finite number, found Infinity", { $0.args = ["amount": JSONValue(Double.infinity)] }),
            ("args.a.b[1]: expected a finite number, found -Infinity", { $0.args = ["a": ["b": [1, .init(-Float.infinity)]]] }),
            ("args[0]", { $0.args = [.init(Double.nan)] }),
            ("args.due: expected a finite number", { $0.args = ["due": .init(Date(timeIntervalSince1970: .nan))] }),
            (#"args["the \"key\""].x: expected a finite number"#, { $0.args = [#"the "key""#: ["x": .init(Double.nan)]] }),
            ("args.b: expected a finite number", { $0.args = ["a": "}],nan", "b": .init(Double.nan)] }),
            ("args.a.a.a.a.a.a.a.a…: nested deeper than 128 levels", { $0.args = deep }),
            ("passport: expected a token, found an empty string", { $0.passport = "" }),
            ("idempotencyKey: expected a non-empty string", { $0.idempotencyKey = "" }),
            ("waitForApproval: expected non-negative seconds", { $0.waitForApproval = .seconds(-1) }),
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

    func testArgumentPathsMatchOtherLanguages() async throws {
        let file = URL(fileURLWithPath: #filePath).appendingPathComponent("../../../../tests/argument-paths.json").standardized
        let rows = try JSONValue(parsing: String(contentsOf: file, encoding: .utf8)).arrayValue ?? []
        XCTAssertFalse(rows.isEmpty)
        let client = try ActPass.quick("http://127.0.0.1:9")
        for row in rows {
            let steps = row["steps"]?.arrayValue ?? []
            let args = steps.reversed().reduce(JSONValue(Double.nan)) { inner, step in
                step.stringValue.map { [$0: inner] } ?? .array(.init(repeating: nil, count: step.intValue ?? 0) + [inner])
            }
            let expected = "\(row["path"]?.stringValue ?? ""): expected a finite number, found NaN"
            var action = refund
            action.args = args
            let asked = action
            let error = try await failure { try await client.preflight(asked) }
            XCTAssertEqual(error.message, expected)
            XCTAssertThrowsError(try ActPass.hashPayload(args)) {
                XCTAssertEqual("\($0)", expected.replacingOccurrences(of: "args", with: "payload", range: expected.range(of: "args")))
            }
        }
    }

    /// Deep nesting does not exhaust the stack before the core rejects it.
    func testRejectsTooDeepNesting() async throws {
        var action = refund
        action.args = (0..<2_000).reduce(JSONValue.null) { inner, _ in ["a": inner] }
        let (client, asked) = (try ActPass.quick("http://127.0.0.1:9"), action)
        let error = try await failure { try await client.preflight(asked) }
        XCTAssertEqual(error.kind, .argument)
    }

    func testRejectsInvalidSettingsByName() throws {
        let cases: [(String, () throws -> ActPass)] = [
            ("apiKey", { try ActPass(apiKey: "") }),
            ("baseURL", { try ActPass(apiKey: "apk_x", baseURL: "gateway") }),
            ("baseURL", { try ActPass(apiKey: "apk_x", baseURL: "http://gateway.example") }),
            ("timeout", { try ActPass(apiKey: "apk_x", timeout: .zero) }),
            ("timeout", { try ActPass(apiKey: "apk_x", timeout: .seconds(-1)) }),
            ("connectTimeout", { try ActPass(apiKey: "apk_x", connectTimeout: .zero) }),
            ("maxRetries", { try ActPass(apiKey: "apk_x", maxRetries: -1) }),
            ("maxRetries", { try ActPass(apiKey: "apk_x", maxRetries: .max) }),
            ("circuitFailures", { try ActPass(apiKey: "apk_x", circuitFailures: -1) }),
            ("tenantID", { try ActPass(apiKey: "apk_x", tenantID: "a\nb") }),
            ("ca", { try ActPass(apiKey: "apk_x", ca: "no PEM") }),
        ]
        for (member, make) in cases {
            XCTAssertThrowsError(try make(), member) { error in
                XCTAssertEqual((error as? ActPassError)?.kind, .config, "\(error)")
                XCTAssertTrue("\(error)".hasPrefix("\(member): "), "\(error)")
            }
        }
        XCTAssertNoThrow(
            try ActPass(apiKey: "apk_x", baseURL: "http://gateway.example", dangerAllowInsecureHTTP: true))
        XCTAssertThrowsError(try ActPass(apiKey: "apk_x", baseURL: "http://gateway.example")) {
            XCTAssertTrue("\($0)".contains("dangerAllowInsecureHTTP"), "\($0)")
        }
        let client = try ActPass(apiKey: apiKey, agentID: "tests", baseURL: "https://gateway.example/")
        XCTAssertEqual(client.baseURL, "https://gateway.example")
        XCTAssertEqual("\(client)", #"ActPass(baseURL: "https://gateway.example", agentID: "tests")"#)
        XCTAssertFalse(everythingShown(client).contains(apiKey))
        XCTAssertNil(Mode(rawValue: "Enforce"))
    }

    func testErrorsUseSwiftArgumentNames() async throws {
        let client = try ActPass.quick("http://127.0.0.1:9")
        let cases: [(String, () async throws -> Any)] = [
            ("ttlSeconds", {
                try await client.issuePassport(audience: "a", goal: "g", allowedTools: ["t"], ttlSeconds: -1)
            }),
            ("resourceConstraints.max[0]", {
                try await client.issuePassport(
                    audience: "a", goal: "g", allowedTools: ["t"],
                    resourceConstraints: ["max": [.init(Double.nan)]])
            }),
            ("chainID", { try await client.recordEvidence("e", chainID: "") }),
            ("metadata.a", { try await client.recordEvidence("e", chainID: "c", metadata: ["a": .init(Double.nan)]) }),
            ("timeout", { try await client.waitForApproval("apr_1", timeout: .seconds(-1)) }),
            ("payload.a", { try ActPass.hashPayload(["a": .init(Double.infinity)]) }),
        ]
        for (member, call) in cases {
            let error = try await failure { try await call() }
            XCTAssertEqual(error.kind, .argument)
            XCTAssertTrue(error.message.hasPrefix("\(member): "), error.message)
        }
    }

    func testConvertsVariablesToJSON() throws {
        let (cents, note, due) = (4900, String?.none, Date(timeIntervalSince1970: 1_750_000_000))
        let (exact, id) = (Decimal(string: "12.340000000000000001")!, UUID(uuidString: "A0000000-0000-4000-8000-000000000001")!)
        let tags = ["late", "eu"]
        let args: JSONValue = [
            "amount": .init(cents), "note": .init(note), "due": .init(due), "exact": .init(exact), "id": .init(id),
            "tags": .init(tags), "flag": .init(Bool?.some(true)), "count": .init(UInt8?.none), "share": .init(Float(0.1)),
            "at": .init(Date?.some(due.addingTimeInterval(0.25))), "url": .init(URL(string: "https://a.example/x")),
        ]
        XCTAssertEqual(
            args.json,
            #"{"amount":4900,"at":"2025-06-15T15:06:40.250Z","count":null,"due":"2025-06-15T15:06:40Z","#
                + #""exact":12.340000000000000001,"flag":true,"id":"a0000000-0000-4000-8000-000000000001","note":null,"#
                + #""share":0.1,"tags":["late","eu"],"url":"https://a.example/x"}"#)
        XCTAssertEqual(args["due"]?.dateValue, due)
        XCTAssertEqual(args["at"]?.dateValue, due.addingTimeInterval(0.25))
        XCTAssertEqual(args["exact"]?.decimalValue, exact)
        XCTAssertEqual(args["note"]?.isNull, true)
        XCTAssertNil(args["amount"]?.dateValue)
        // Dates before 1970 and at the limits of four-digit years in ISO 8601.
        XCTAssertEqual(JSONValue(Date(timeIntervalSince1970: -0.5)), "1969-12-31T23:59:59.500Z")
        XCTAssertEqual(JSONValue(Date(timeIntervalSince1970: -12_212_553_600)), "1583-01-01T00:00:00Z")
        XCTAssertEqual(JSONValue(Date(timeIntervalSince1970: 253_402_300_799)), "9999-12-31T23:59:59Z")
        XCTAssertEqual(JSONValue(Date(timeIntervalSince1970: 0.9996)), "1970-01-01T00:00:01Z")
        XCTAssertThrowsError(try ActPass.hashPayload(.init(Date(timeIntervalSince1970: 1e15))))
    }

    func testActionAcceptsVariables() throws {
        let (cents, currency, note, due) = (4900, "usd", String?.none, Date(timeIntervalSince1970: 1_750_000_000))
        let flag: Bool? = true
        let nested: JSONValue = ["a": [1, "x"]]
        let mixed = try Action(
            goal: "g", tool: "t",
            args: [
                "amount": cents, "currency": currency, "note": note, "due": due, "flag": flag, "tags": ["a", "b"],
                "nested": nested, "none": nil,
            ])
        let same: [String: Int] = ["amount": cents]
        XCTAssertEqual(
            mixed.args,
            [
                "amount": 4900, "currency": "usd", "note": nil, "due": "2025-06-15T15:06:40Z", "flag": true,
                "tags": ["a", "b"], "nested": ["a": [1, "x"]], "none": nil,
            ])
        XCTAssertEqual(try Action(goal: "g", tool: "t", args: same).args, ["amount": 4900])
        XCTAssertEqual(try Action(goal: "g", tool: "t", args: ["amount": cents]).args, ["amount": 4900])
        // Literals need no `try`.
        XCTAssertEqual(Action(goal: "g", tool: "t", args: ["amount": 4900, "tags": ["a", 1, nil]]).args["tags"], ["a", 1, nil])
        XCTAssertThrowsError(try Action(goal: "g", tool: "t", args: ["name": currency, "price": Double.nan])) {
            XCTAssertEqual("\($0)", "args.price: expected a finite number, found NaN")
        }
    }

    func testActionAcceptsEncodable() throws {
        struct Order: Codable, Equatable {
            struct Line: Codable, Equatable { var price: Double }
            var due = Date(timeIntervalSince1970: 1_750_000_000)
            var note: String?
            var lines = [Line(price: 1.5)]
        }
        let action = try Action(goal: "g", tool: "t", args: Order())
        XCTAssertEqual(action.args, ["due": "2025-06-15T15:06:40Z", "lines": [["price": 1.5]]])
        XCTAssertEqual(try action.args.decoded(as: Order.self), Order())
        let cases: [(String, Order)] = [
            ("args.lines[1].price: expected a finite number, found NaN", Order(lines: [.init(price: 1), .init(price: .nan)])),
            ("args.lines[0].price: expected a finite number, found Infinity", Order(lines: [.init(price: .infinity)])),
            ("args.due: cannot be encoded: expected a date of the years 1583 to 9999", Order(due: Date(timeIntervalSince1970: 1e15))),
        ]
        for (message, order) in cases {
            XCTAssertThrowsError(try Action(goal: "g", tool: "t", args: order)) { XCTAssertEqual("\($0)", message) }
        }
        XCTAssertThrowsError(try ActPass.hashPayload([Double.nan])) {
            XCTAssertEqual("\($0)", "payload[0]: expected a finite number, found NaN")
        }
    }

    func testSubscriptSetsAndRemovesMembers() {
        var json: JSONValue = [:]
        json["a"]["b"] = 1
        json["a"]["c"]["d"] = "deep"
        json["items"] = [1, 2]
        json["items"][0] = 7
        json["items"][2] = ["x": nil]
        json["items"][2]["x"] = true
        XCTAssertEqual(json.json, #"{"a":{"b":1,"c":{"d":"deep"}},"items":[7,2,{"x":true}]}"#)
        json["a"]["c"] = nil
        json["a"]["b"] = .null
        json["items"][1] = nil
        json["none"]["x"] = nil
        XCTAssertEqual(json.json, #"{"a":{"b":null},"items":[7,{"x":true}]}"#)
        json["a"]?["e"] = 2
        XCTAssertEqual(json["a"]["e"], 2)
        XCTAssertNil(json["a"]["missing"]["x"])
        XCTAssertNil(json["items"][9])
        json["items"]["now"] = "an object"
        XCTAssertEqual(json["items"], ["now": "an object"])
    }

    func testActionHidesPassport() throws {
        let action = Action(goal: "g", tool: "t", passport: passport)
        XCTAssertEqual(action.passport, passport)
        XCTAssertFalse(everythingShown(action).contains(passport))
    }

    func testDpopThumbprintMatchesKnownValue() throws {
        let key = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g"
        let pem = { (label: String) in "-----BEGIN \(label)-----\n\(key)\n-----END \(label)-----\n" }
        XCTAssertEqual(
            try ActPass.dpopThumbprint(pem("PRIVATE KEY")), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k")
        XCTAssertThrowsError(try ActPass.dpopThumbprint(pem("PUBLIC KEY"))) {
            XCTAssertEqual(($0 as? ActPassError)?.kind, .argument)
            XCTAssertFalse("\($0)".contains(key))
        }
        XCTAssertThrowsError(try ActPass(apiKey: "apk_dev", dpopKey: pem("PUBLIC KEY"))) {
            XCTAssertEqual(($0 as? ActPassError)?.kind, .config)
            XCTAssertFalse("\($0)".contains(key))
        }
    }

    func testHashesAndSignaturesMatchKnownValues() throws {
        let hash = "b8254cdaf74420349cd61cd59255812d66cf264b642850b3746a88420ab48ca2"
        XCTAssertEqual(try ActPass.hashPayload(["currency": "usd", "amount": 4900]), hash)
        struct Refund: Encodable {
            var amount = 4900
            var currency = "usd"
        }
        XCTAssertEqual(try ActPass.hashPayload(Refund()), hash)
        XCTAssertEqual(try Action(goal: "g", tool: "t", args: Refund()).args, ["amount": 4900, "currency": "usd"])
        XCTAssertEqual(
            try ActPass.signPayload(secret: "secret", payload: "payload"),
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

    func testJSONRoundTripsUnchanged() throws {
        let text = #"{"a":[1,-2.50,1e400000000000,null,true,false],"b":"é\"\\\/\b\f\n\r\t\u0000😀","c":{}}"#
        XCTAssertThrowsError(try JSONValue(parsing: text), "a number beyond the range of a double")
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

    /// Qualifying a type with `ActPass` resolves a name conflict with another module.
    func testTypesAreAvailableThroughActPass() throws {
        struct Action {}
        _ = Action()
        XCTAssertEqual(ActPass.Action(goal: "g", tool: "t").args, [:])
    }
}
