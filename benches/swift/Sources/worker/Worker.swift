// The clients of Swift, measured on command.
//
// Usage: worker URL [CA]. A worker reads a command a line, and answers each with a JSON object on a line:
//
// - `measure NAME WIDTH CALLS SECONDS`: so many calls, so many at once, for so long at most.
// - `clients NAME COUNT`: makes so many more clients, which make one call each and stay.
// - `border`: cost of a call into the native library, in nanoseconds.

import ActPass
import Foundation

#if canImport(FoundationNetworking)
import FoundationNetworking
#endif

@main
struct Worker {
    static func main() async throws {
        let arguments = CommandLine.arguments
        guard arguments.count > 1 else {
            FileHandle.standardError.write(Data("usage: worker URL [CA]\n".utf8))
            exit(2)
        }
        let authority = arguments.count > 2 ? try String(contentsOfFile: arguments[2], encoding: .utf8) : nil
        let contenders: [String: any Contender] = [
            "guard": try Guarded(url: arguments[1], authority: authority),
            "urlsession": try Session(url: arguments[1]),
        ]
        var kept: [Guarded] = []
        say("{\"contenders\": [\"guard\", \"urlsession\"]}")
        while let line = readLine() {
            let words = line.split(separator: " ").map(String.init)
            do {
                switch words.first {
                case "measure" where words.count == 5:
                    guard let contender = contenders[words[1]], let width = Int(words[2]), let calls = Int(words[3]),
                        let seconds = Double(words[4])
                    else { throw Problem(description: "no such measurement") }
                    say(try await measure(contender, width, Budget(calls: calls, seconds: seconds)))
                case "clients" where words.count == 3:
                    for _ in 0..<(Int(words[2]) ?? 0) {
                        let client = try Guarded(url: arguments[1], authority: authority)
                        try await client.call()
                        kept.append(client)
                    }
                    say("{\"clients\": \(kept.count)}")
                case "border":
                    say(try border(url: arguments[1]))
                default:
                    throw Problem(description: "no such command")
                }
            } catch {
                say("{\"error\": \(JSONValue("\(error)"))}")
            }
        }
    }

    static func say(_ line: String) {
        FileHandle.standardOutput.write(Data("\(line)\n".utf8))
    }
}

struct Problem: Error, CustomStringConvertible {
    let description: String
}

/// A client that can request a decision.
protocol Contender: Sendable {
    func call() async throws
}

struct Guarded: Contender {
    let actpass: ActPass

    init(url: String, authority: String?) throws {
        actpass = try ActPass(apiKey: "apk_bench", baseURL: url, ca: authority)
    }

    func call() async throws {
        let outcome = try await actpass.guard(
            Action(
                goal: "resolve_refund_request", tool: "stripe.refund.create", resource: "stripe:charge:ch_123",
                args: ["amount": 4900, "currency": "usd"])
        ) { _ in true }
        guard case .returned = outcome else { throw Problem(description: "blocked: \(outcome)") }
    }
}

/// The same by Foundation's own client.
struct Session: Contender {
    let session: URLSession
    let url: URL

    struct Answer: Decodable {
        let decision: String
    }

    struct Question: Encodable {
        struct Arguments: Encodable {
            let amount: Int
            let currency: String
        }

        let agent_id = "sdk"
        let goal = "resolve_refund_request"
        let tool = "stripe.refund.create"
        let resource = "stripe:charge:ch_123"
        let args = Arguments(amount: 4900, currency: "usd")
        let mode = "enforce"
        let idempotency_key = UUID().uuidString
    }

    init(url: String) throws {
        guard let url = URL(string: url + "/api/v1/actions/preflight") else { throw Problem(description: "no URL") }
        self.url = url
        let configuration = URLSessionConfiguration.ephemeral
        configuration.httpMaximumConnectionsPerHost = 64
        session = URLSession(configuration: configuration)
    }

    func call() async throws {
        var request = URLRequest(url: url)
        request.httpMethod = "POST"
        request.setValue("Bearer apk_bench", forHTTPHeaderField: "authorization")
        request.setValue("application/json", forHTTPHeaderField: "content-type")
        request.httpBody = try JSONEncoder().encode(Question())
        let asked = request
        let data: Data = try await withCheckedThrowingContinuation { continuation in
            session.dataTask(with: asked) { data, _, error in
                if let data {
                    continuation.resume(returning: data)
                } else {
                    continuation.resume(throwing: error ?? Problem(description: "no answer"))
                }
            }.resume()
        }
        guard try JSONDecoder().decode(Answer.self, from: data).decision == "allow" else {
            throw Problem(description: "blocked")
        }
    }
}

/// The limit of a measurement: a number of calls, and a time.
final class Budget: @unchecked Sendable {
    private let lock = NSLock()
    private var left: Int
    private let seconds: Double
    private let began = now()

    init(calls: Int, seconds: Double) {
        left = calls
        self.seconds = seconds
    }

    func goesOn() -> Bool {
        lock.withLock {
            guard left > 0, elapsed() < seconds else { return false }
            left -= 1
            return true
        }
    }

    func elapsed() -> Double { Double(now() - began) / 1e9 }
}

func now() -> UInt64 { DispatchTime.now().uptimeNanoseconds }

func measure(_ contender: any Contender, _ width: Int, _ budget: Budget) async throws -> String {
    var times = try await withThrowingTaskGroup(of: [Double].self) { group in
        for _ in 0..<width {
            group.addTask {
                var times: [Double] = []
                while budget.goesOn() {
                    let start = now()
                    try await contender.call()
                    times.append(Double(now() - start) / 1e3)
                }
                return times
            }
        }
        return try await group.reduce(into: []) { $0 += $1 }
    }
    let seconds = budget.elapsed()
    times.sort()
    let at = { (part: Int) in times.isEmpty ? "null" : "\(times[times.count * part / 100])" }
    return "{\"calls\": \(times.count), \"seconds\": \(seconds), \"p50\": \(at(50)), \"p99\": \(at(99))}"
}

func border(url: String) throws -> String {
    let actpass = try ActPass(apiKey: "apk_bench", baseURL: url)
    let item: JSONValue = ["sku": "article-1", "count": 3, "note": "left at the door"]
    func arguments(_ size: Int) -> JSONValue {
        ["amount": 4900, "currency": "usd", "items": .array(Array(repeating: item, count: size / 60))]
    }
    let (small, large) = (arguments(1_000), arguments(100_000))
    let empty = nanoseconds { _ = actpass.circuit }
    let one = try nanoseconds { _ = try ActPass.hashPayload(small) }
    let hundred = try nanoseconds { _ = try ActPass.hashPayload(large) }
    return "{\"empty_call\": \(empty), \"hash_payload_1_kb\": \(one), \"hash_payload_100_kb\": \(hundred)}"
}

/// Time of a call: the median of several batches.
func nanoseconds(_ call: () throws -> Void) rethrows -> Double {
    func batch(_ calls: Int) throws -> Double {
        let start = now()
        for _ in 0..<calls { try call() }
        return Double(now() - start) / Double(calls)
    }
    var calls = 1
    while try batch(calls) * Double(calls) < 1e6 { calls *= 2 }
    let batches = try (0..<21).map { _ in try batch(calls) }
    return batches.sorted()[10]
}
