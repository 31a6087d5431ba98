internal import ActPassBridge

extension ActPass {
    /// Receives the log lines of a client's calls, which contain no secrets, arguments or results.
    ///
    /// ```swift
    /// import ActPass
    ///
    /// let actpass = try ActPass(apiKey: "apk_dev", logger: .init(level: .debug) { print($0) })
    /// print(actpass)
    /// ```
    ///
    /// A thread of the SDK calls the logger, one line at a time. A slow logger does not delay calls: up to 1024 lines
    /// are queued, later ones are dropped, and a line reports their number.
    public struct Logger: Sendable {
        /// The lowest level to log.
        public let level: Level
        /// Logs a line.
        public let log: @Sendable (Event) -> Void

        /// Creates a logger.
        ///
        /// - Parameters:
        ///   - level: The lowest level to log.
        ///   - log: Logs a line.
        public init(level: Level = .info, _ log: @escaping @Sendable (Event) -> Void) {
            self.level = level
            self.log = log
        }

        /// The level of a line.
        public enum Level: String, Sendable, Hashable, CaseIterable {
            /// Each call, retry and permitted action.
            case debug
            /// Blocked actions.
            case info
            /// Failures of the gate.
            case warn
        }

        /// A log line. `docs/telemetry.md` lists the texts, which are the same in every language.
        public struct Event: Sendable, Hashable, CustomStringConvertible {
            /// The level.
            public let level: Level
            /// The message text.
            public let message: String
            /// The fields, such as `tool` and `reason_code`.
            public let fields: [String: String]

            /// Creates a line, for tests of a logger.
            public init(level: Level, message: String, fields: [String: String] = [:]) {
                self.level = level
                self.message = message
                self.fields = fields
            }

            /// The message and the fields, sorted by name.
            public var description: String {
                fields.sorted { $0.key < $1.key }.reduce(into: message) { $0 += " \($1.key)=\($1.value)" }
            }
        }
    }
}

extension ActPass.Logger.Level {
    var native: NativeLogLevel {
        switch self {
        case .debug: .debug
        case .info: .info
        case .warn: .warning
        }
    }

    init(_ native: NativeLogLevel) {
        switch native {
        case .debug: self = .debug
        case .info: self = .info
        case .warning: self = .warn
        }
    }
}

/// The logger that the native library calls.
final class LogBridge: NativeLogger {
    private let logger: ActPass.Logger

    init(_ logger: ActPass.Logger) { self.logger = logger }

    func log(event: NativeLogEvent) {
        logger.log(.init(level: .init(event.level), message: event.message, fields: event.fields))
    }
}
