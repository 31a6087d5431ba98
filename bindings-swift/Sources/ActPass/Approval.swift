internal import ActPassBridge

/// An action that waits for human approval.
public typealias PendingApproval = ActPass.PendingApproval

/// The state of an approval.
public typealias Approval = ActPass.Approval

extension ActPass {
    /// Waits until an approval is decided, and returns its state, which may still be pending.
    ///
    /// - Parameters:
    ///   - id: The approval: ``Decision/approvalRequestID`` or ``PendingApproval/id``.
    ///   - timeout: The longest wait, at most 30 days. Zero polls once.
    /// - Throws: ``ActPassError``, as ``preflight(_:)``; `CancellationError`.
    public func waitForApproval(_ id: String, timeout: Duration) async throws -> Approval {
        let (native, seconds) = (native, timeout.inSeconds)
        return Approval(try await call { try await native.waitForApproval(id: id, seconds: seconds, cancel: $0) })
    }

    /// An action that waits for human approval: JSON without secrets, to store until the decision, also in another
    /// process. ``resume(_:passport:waitForApproval:recordOutcome:isolation:execute:)`` guards it again.
    public struct PendingApproval: Sendable, Hashable, Codable, CustomStringConvertible {
        /// The approval's id.
        public let id: String
        /// The JSON object to store.
        public let json: String

        /// Its id: `PendingApproval(apr_123)`.
        public var description: String { "PendingApproval(\(id))" }

        /// All members; `args` contains the approved arguments for the closure.
        public var members: [String: JSONValue] { JSONValue(checked: json).objectValue ?? [:] }

        /// Parses the ``json`` of a stored approval.
        ///
        /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument`` if a member is missing, unknown or
        ///   invalid; the message names it.
        public init(json: String) throws {
            self.init(try enter { try nativePendingApproval(json: json) })
        }

        init(_ native: NativePending) {
            id = native.id
            json = native.json
        }

        /// Decodes the string that ``encode(to:)`` wrote.
        public init(from decoder: any Decoder) throws {
            try self.init(json: decoder.singleValueContainer().decode(String.self))
        }

        /// Encodes ``json`` as a string.
        public func encode(to encoder: any Encoder) throws {
            var container = encoder.singleValueContainer()
            try container.encode(json)
        }
    }

    /// The state of an approval.
    public struct Approval: Sendable, Hashable {
        /// The status.
        public let status: Status
        /// The person who decided; `nil` while pending.
        public let decidedBy: String?
        /// The complete response, a JSON object.
        public let json: String

        /// All members.
        public var members: [String: JSONValue] { JSONValue(checked: json).objectValue ?? [:] }

        /// Creates an instance, for tests.
        public init(id: String, status: Status, decidedBy: String? = nil) {
            self.status = status
            self.decidedBy = decidedBy
            let members: JSONValue = [
                "id": .string(id), "status": .string(status.rawValue), "decided_by": .init(decidedBy),
            ]
            json = members.json
        }

        init(_ native: NativeApproval) {
            status = Status(native.status)
            decidedBy = native.decidedBy
            json = native.json
        }

        /// The status of an approval.
        public enum Status: String, Sendable, Hashable, CaseIterable {
            /// A person approved it.
            case approved
            /// The deadline expired.
            case expired
            /// No decision yet.
            case pending
            /// A person rejected it.
            case rejected

            init(_ native: NativeApprovalStatus) {
                switch native {
                case .approved: self = .approved
                case .expired: self = .expired
                case .pending: self = .pending
                case .rejected: self = .rejected
                }
            }
        }
    }
}
