import ActPass
import Foundation
import XCTest

#if canImport(FoundationNetworking)
import FoundationNetworking
#endif

/// The secrets of the tests. Each ends in `_secret` and must never appear in output.
let apiKey = "apk_tests_secret"
let passport = "eyJhbGciOiJFZERTQSJ9.passport_secret"

let refund = Action(
    goal: "resolve_refund_request", tool: "stripe.refund.create", resource: "stripe:charge:ch_123",
    args: ["amount": 4900, "currency": "usd"])
let allow: JSONValue = [
    "decision": "allow", "reason_code": "refund.small_in_scope", "evidence_event_id": "ev_1",
    "request_hash": "{{request_hash}}",
]

func answer(_ json: JSONValue) -> JSONValue { ["do": "respond", "json": json] }

extension ActPass {
    /// A client without retries and with a timeout of 10 s.
    static func quick(
        _ baseURL: String, apiKey: String = apiKey, timeout: Duration = .seconds(10), mode: Mode = .enforce
    ) throws -> ActPass {
        try ActPass(
            apiKey: apiKey, agentID: "tests", baseURL: baseURL, timeout: timeout, maxRetries: 0, mode: mode)
    }
}

/// A child process that is read line by line.
final class Child: @unchecked Sendable {
    private let process = Process()
    private let input = Pipe()
    private let output = Pipe()
    private var read = Data()
    private let lock = NSLock()

    init(_ variable: String, _ arguments: [String] = []) throws {
        let path = ProcessInfo.processInfo.environment[variable] ?? ""
        guard FileManager.default.isExecutableFile(atPath: path) else {
            throw Problem("\(variable) must be the path of the built program, found '\(path)'")
        }
        process.executableURL = URL(fileURLWithPath: path)
        process.arguments = arguments
        process.standardInput = input
        process.standardOutput = output
        process.standardError = FileHandle.nullDevice
        try process.run()
    }

    /// Writes a line and returns the response line.
    func tell(_ line: String) throws -> String {
        try lock.withLock {
            try input.fileHandleForWriting.write(contentsOf: Data((line + "\n").utf8))
            return try readLine()
        }
    }

    func readLine() throws -> String {
        while true {
            if let end = read.firstIndex(of: UInt8(ascii: "\n")) {
                defer { read.removeSubrange(...end) }
                return String(decoding: read[..<end], as: UTF8.self)
            }
            let more = output.fileHandleForReading.availableData
            if more.isEmpty { throw Problem("the child ended") }
            read += more
        }
    }

    func stop() {
        try? input.fileHandleForWriting.close()
        // SIGKILL, because a child of a dispatch thread inherits SIGTERM blocked. Polls, because `waitUntilExit` on Linux
        // runs a run loop that never wakes.
        if process.isRunning { kill(process.processIdentifier, SIGKILL) }
        for _ in 0..<1_000 where process.isRunning { usleep(10_000) }
    }
}

struct Problem: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// The hostile gateway, as one child process for the whole run.
final class Hostile: Sendable {
    static let shared = Result { Hostile(child: try Child("ACTPASS_HOSTILE_GATEWAY")) }
    private let child: Child

    private init(child: Child) { self.child = child }

    func tell(_ command: JSONValue) throws -> JSONValue {
        let said = try JSONValue(parsing: child.tell(command.json))
        if let error = said["error"] { throw Problem(error.json) }
        return said
    }

    /// One gateway that runs `script`.
    static func play(_ script: JSONValue) throws -> Played {
        let hostile = try shared.get()
        let started = try hostile.tell(["start": script])
        guard let id = started["id"], let baseURL = started["base_url"]?.stringValue else {
            throw Problem("the gateway did not start: \(started)")
        }
        return Played(hostile: hostile, id: id, baseURL: baseURL, ca: started["ca_pem"]?.stringValue)
    }

    static func play(steps: JSONValue...) throws -> Played { try play(["steps": .array(steps)]) }
}

/// One running gateway of a ``Hostile``.
struct Played: Sendable {
    let hostile: Hostile
    let id: JSONValue
    let baseURL: String
    let ca: String?

    /// The valid requests so far.
    func seen() throws -> [JSONValue] {
        let seen = try hostile.tell(["seen": id])["seen"]?.arrayValue ?? []
        return seen.filter { $0["method"] != "?" }
    }

    func otherSeen() throws -> [JSONValue] { try hostile.tell(["seen": id])["other_seen"]?.arrayValue ?? [] }

    func stop() { _ = try? hostile.tell(["stop": id]) }
}

/// The real gateway, in its development mode.
final class Gateway: Sendable {
    let baseURL: String
    private let child: Child
    private let folder: URL

    init() throws {
        folder = FileManager.default.temporaryDirectory.appendingPathComponent("actpass-\(UUID())")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        let data = folder.appendingPathComponent("data.db").path
        child = try Child("ACTPASS_GATEWAY", ["dev", "--listen", "127.0.0.1:0", "--data", data])
        let line = try child.readLine()
        guard line.hasPrefix("listening on ") else { throw Problem("the gateway's first line is '\(line)'") }
        baseURL = String(line.dropFirst("listening on ".count))
    }

    func client() throws -> ActPass { try .quick(baseURL, apiKey: "apk_dev") }

    /// Sends an operator's request.
    func operate(_ path: String) async throws {
        var request = URLRequest(url: URL(string: baseURL + path)!)
        request.httpMethod = "POST"
        request.httpBody = Data("{}".utf8)
        request.setValue("Bearer apdv_dev", forHTTPHeaderField: "authorization")
        request.setValue("application/json", forHTTPHeaderField: "content-type")
        let (data, response) = try await URLSession.shared.data(for: request)
        guard (response as? HTTPURLResponse)?.statusCode == 200 else {
            throw Problem(String(decoding: data, as: UTF8.self))
        }
    }

    func stop() {
        child.stop()
        try? FileManager.default.removeItem(at: folder)
    }
}

/// A counter for concurrent tasks.
final class Counter: @unchecked Sendable {
    private let lock = NSLock()
    private var counts: [Int: Int] = [:]

    func count(_ key: Int = 0) { lock.withLock { counts[key, default: 0] += 1 } }
    var total: Int { lock.withLock { counts.values.reduce(0, +) } }
    var all: [Int: Int] { lock.withLock { counts } }
}

/// Runs `body` for each number below `count`, `width` of them concurrently.
func concurrently(_ count: Int, width: Int, _ body: @escaping @Sendable (Int) async throws -> Void) async throws {
    try await withThrowingTaskGroup(of: Void.self) { group in
        for number in 0..<count {
            if number >= width { try await group.next() }
            group.addTask { try await body(number) }
        }
        try await group.waitForAll()
    }
}

/// Every text of a value that a program could print.
func everythingShown(_ value: Any) -> String {
    var dumped = ""
    dump(value, to: &dumped)
    var shown = [String(describing: value), String(reflecting: value), dumped]
    if let error = value as? any Error { shown.append(error.localizedDescription) }
    return shown.joined(separator: "\n")
}

extension XCTestCase {
    /// Expects an ``ActPassError`` and returns it.
    func failure(
        of body: () async throws -> some Any, file: StaticString = #filePath, line: UInt = #line
    ) async throws -> ActPassError {
        do {
            let returned = try await body()
            XCTFail("returned \(returned)", file: file, line: line)
        } catch let error as ActPassError {
            return error
        }
        throw Problem("no error")
    }

    /// Fails unless `body` ends within `limit`: far less than the deadline of the cancelled call, and far more than a busy
    /// machine needs.
    func within<T>(_ limit: Duration, file: StaticString = #filePath, line: UInt = #line, _ body: () async throws -> T)
        async rethrows -> T
    {
        let clock = ContinuousClock()
        let began = clock.now
        let result = try await body()
        let took = clock.now - began
        XCTAssertLessThan(took, limit, file: file, line: line)
        return result
    }
}
