// Names that the reader of the documentation has in the program around a block.
import ActPass
import Foundation

let key = "apk_dev"
let current = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
let actpass: ActPass = {
    do { return try ActPass(apiKey: key, agentID: "support_agent") } catch { fatalError("\(error)") }
}()
let action = Action(
    goal: "resolve_refund_request", tool: "stripe.refund.create", args: ["amount": 4900, "currency": "usd"])

func refund(_ charge: String = "ch_123", _ cents: Int = 4900, credential: Credential? = nil) async throws -> String {
    "refunded \(cents) of \(charge)"
}

actor Bank {
    func refund(_ context: ExecutionContext) async throws -> String { "refunded" }
}

let bank = Bank()

func XCTAssertEqual<Value: Equatable>(_ found: Value, _ expected: Value) {
    precondition(found == expected, "expected \(expected), found \(found)")
}
