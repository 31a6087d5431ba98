// A support agent refunds customers, guarded by a local gateway.
//
// The example tries refunds of 49, 250 and 900 dollars under the refund policy. Then it stops the gateway and tries one refund
// in `enforce` and one in `monitor`. The ledger file contains one line for each refund that ran.
//
// Usage: refund GATEWAY LEDGER, the path of the program `actpass-gateway` and of a file to write.

import ActPass
import Foundation

@main
@MainActor
struct Refund {
    static func main() async throws {
        let arguments = CommandLine.arguments.dropFirst()
        guard let program = arguments.first, let ledger = arguments.dropFirst().first, arguments.count == 2 else {
            FileHandle.standardError.write(Data("usage: refund GATEWAY LEDGER\n".utf8))
            exit(2)
        }
        let gateway = try Gateway(program: program)
        defer { gateway.stop() }
        let agent = try Agent(gateway: gateway.url, ledger: URL(fileURLWithPath: ledger))

        row("amount", "mode", "decision", "reason", "ran")
        for (charge, cents) in [("ch_1", 4900), ("ch_2", 25000), ("ch_3", 90000)] {
            try await agent.refund(charge, cents, mode: .enforce)
        }
        gateway.stop()
        for (charge, mode) in [("ch_4", Mode.enforce), ("ch_5", .monitor)] {
            try await agent.refund(charge, 1200, mode: mode)
        }
        print("\nrefunds that ran (\(ledger)):")
        print(try String(contentsOfFile: ledger, encoding: .utf8), terminator: "")
    }
}

/// Refunds charges that the gateway allows.
@MainActor
final class Agent {
    private let actpass: ActPass
    private let ledger: FileHandle

    init(gateway: String, ledger: URL) throws {
        actpass = try ActPass(apiKey: "apk_dev", agentID: "support_agent", baseURL: gateway)
        try FileManager.default.createDirectory(at: ledger.deletingLastPathComponent(), withIntermediateDirectories: true)
        try Data().write(to: ledger)
        self.ledger = try FileHandle(forWritingTo: ledger)
    }

    func refund(_ charge: String, _ cents: Int, mode: Mode) async throws {
        let outcome = try await actpass.guard(
            Action(
                goal: "resolve_refund_request", tool: "stripe.refund.create", resource: "stripe:charge:\(charge)",
                args: ["amount": JSONValue(cents), "currency": "usd"], mode: mode)
        ) { _ in
            try pay(charge, cents)
        }
        switch outcome {
        case .returned(_, let execution): report(execution.decision, ran: "yes")
        case .blocked(let blocked): report(blocked.decision, ran: "no")
        case .failed(let error, _): throw error
        }

        func report(_ decision: Decision, ran: String) {
            row(String(format: "%.2f", Double(cents) / 100), mode.rawValue, "\(decision.word)", decision.reasonCode, ran)
        }
    }

    /// Pays the refund; this example appends a line to a file instead.
    private func pay(_ charge: String, _ cents: Int) throws -> String {
        let line: JSONValue = ["charge": JSONValue(charge), "amount": JSONValue(cents)]
        try ledger.write(contentsOf: Data("\(line)\n".utf8))
        return "re_\(charge)"
    }
}

/// A gateway with a new data file.
@MainActor
final class Gateway {
    let url: String
    private let process = Process()
    private let folder = FileManager.default.temporaryDirectory.appendingPathComponent("actpass-\(UUID())")

    init(program: String) throws {
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        let output = Pipe()
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = ["dev", "--listen", "127.0.0.1:0", "--data", folder.appendingPathComponent("dev.db").path]
        process.standardOutput = output
        process.standardError = FileHandle.nullDevice
        try process.run()
        let line = String(decoding: output.fileHandleForReading.availableData, as: UTF8.self)
        guard let first = line.split(separator: "\n").first, first.hasPrefix("listening on ") else {
            throw CocoaError(.executableLoad)
        }
        url = String(first.dropFirst("listening on ".count))
    }

    func stop() {
        guard process.isRunning else { return }
        process.terminate()
        process.waitUntilExit()
        try? FileManager.default.removeItem(at: folder)
    }
}

/// Prints a row of the table.
func row(_ amount: String, _ mode: String, _ decision: String, _ reason: String, _ ran: String) {
    func padded(_ text: String, _ width: Int) -> String { text + String(repeating: " ", count: max(0, width - text.count)) }
    let right = String(repeating: " ", count: max(0, 8 - amount.count)) + amount
    print("\(right)  \(padded(mode, 8))  \(padded(decision, 17)) \(padded(reason, 28)) \(ran)")
}
