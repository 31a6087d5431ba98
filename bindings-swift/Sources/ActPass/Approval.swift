internal import ActPassBridge

/// An action that waits for a person.
public typealias PendingApproval = ActPass.PendingApproval

/// Where an approval stands.
public typealias Approval = ActPass.Approval

extension ActPass {
    /// Waits until somebody decided about an approval, and says where it stands then. It may still be pending.
    ///
    /// - Parameters:
    ///   - id: The approval: ``Decision/approvalRequestID`` or ``PendingApproval/id``.
    ///   - timeout: For how long; 30 days at most. With zero it is one look.
    /// - Throws: ``ActPassError``, as ``preflight(_:)``; `CancellationError`.
    public func waitForApproval(_ id: String, timeout: Duration) async throws -> Approval {
        let (native, seconds) = (native, timeout.inSeconds)
        return Approval(try await call { try await native.waitForApproval(id: id, seconds: seconds, cancel: $0) })
    }

    /// An action that waits for a person: small, without secrets, and made to be kept until somebody decided, also in
    /// another process. ``resume(_:passport:waitForApproval:recordOutcome:isolation:execute:)`` guards it again.
    public struct PendingApproval: Sendable, Hashable, Codable, CustomStringConvertible {
        /// The approval's id.
        public let id: String
        /// All of it as a JSON object, to keep.
        public let json: String

        /// Its id: `PendingApproval(apr_123)`.
        public var description: String { "PendingApproval(\(id))" }

        /// All members; `args` holds the action's arguments, for the closure to use what was approved.
        public var members: [String: JSONValue] { JSONValue(checked: json).objectValue ?? [:] }

        /// Reads what ``json`` was.
        ///
        /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument``, naming the member that is missing, unknown or
        ///   not what it must be.
        public init(json: String) throws {
            self.init(try enter { try nativePendingApproval(json: json) })
        }

        init(_ native: NativePending) {
            id = native.id
            json = native.json
        }

        /// Decodes what ``encode(to:)`` wrote, a string.
        public init(from decoder: any Decoder) throws {
            try self.init(json: decoder.singleValueContainer().decode(String.self))
        }

        /// Encodes ``json`` as a string.
        public func encode(to encoder: any Encoder) throws {
            var container = encoder.singleValueContainer()
            try container.encode(json)
        }
    }

    /// Where an approval stands.
    public struct Approval: Sendable, Hashable {
        /// What became of it.
        public let status: Status
        /// Who decided; `nil` if nobody did.
        public let decidedBy: String?
        /// The whole answer, a JSON object.
        public let json: String

        /// All members.
        public var members: [String: JSONValue] { JSONValue(checked: json).objectValue ?? [:] }

        /// Makes one, for tests.
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

        /// What became of an approval.
        public enum Status: String, Sendable, Hashable, CaseIterable {
            /// A person approved it.
            case approved
            /// Its deadline passed.
            case expired
            /// Nobody has decided yet.
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
