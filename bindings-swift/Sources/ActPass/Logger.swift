internal import ActPassBridge

extension ActPass {
    /// Takes the log lines of a client's calls. They hold no secret, no argument and no result.
    ///
    /// ```swift
    /// import ActPass
    ///
    /// let actpass = try ActPass(apiKey: "apk_dev", logger: .init(level: .debug) { print($0) })
    /// print(actpass)
    /// ```
    ///
    /// A thread of the SDK calls the logger, one line at a time. A logger that is slow delays no call: 1024 lines wait for
    /// it at most, later ones are dropped, and a line says how many.
    public struct Logger: Sendable {
        /// The lowest level that is logged.
        public let level: Level
        /// Takes a line.
        public let log: @Sendable (Event) -> Void

        /// Makes a logger.
        ///
        /// - Parameters:
        ///   - level: The lowest level that is logged.
        ///   - log: Takes a line.
        public init(level: Level = .info, _ log: @escaping @Sendable (Event) -> Void) {
            self.level = level
            self.log = log
        }

        /// How important a line is.
        public enum Level: String, Sendable, Hashable, CaseIterable {
            /// Each call: what may run, retries, how calls end.
            case debug
            /// What is blocked.
            case info
            /// Gates that failed.
            case warn
        }

        /// A log line. Its texts are those of `docs/telemetry.md`, the same in every language.
        public struct Event: Sendable, Hashable, CustomStringConvertible {
            /// How important it is.
            public let level: Level
            /// What happened.
            public let message: String
            /// The fields, such as `tool` and `reason_code`.
            public let fields: [String: String]

            /// Makes a line, for tests of a logger.
            public init(level: Level, message: String, fields: [String: String] = [:]) {
                self.level = level
                self.message = message
                self.fields = fields
            }

            /// The message, and the fields in the order of their names.
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

/// The logger as the native library calls it.
final class LogBridge: NativeLogger {
    private let logger: ActPass.Logger

    init(_ logger: ActPass.Logger) { self.logger = logger }

    func log(event: NativeLogEvent) {
        logger.log(.init(level: .init(event.level), message: event.message, fields: event.fields))
    }
}
