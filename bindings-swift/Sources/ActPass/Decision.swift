internal import ActPassBridge
internal import ActPassSecret

/// What the gateway decided, kept whole.
public typealias Decision = ActPass.Decision

/// A secret that the gateway's vault holds for a tool.
public typealias Credential = ActPass.Credential

extension ActPass {
    /// What the gateway decided, kept whole: the members that have no property of their own are in ``members``.
    public struct Decision: Sendable, Hashable, CustomStringConvertible {
        /// The decision itself.
        public let word: Word
        /// The stable, dotted reason, such as `refund.small_in_scope`: branch and alert on it. `unspecified` if the gateway sent
        /// none.
        public let reasonCode: String
        /// How much the action could damage: `low`, `medium`, `high` or `critical`; `nil` if the gateway sent none.
        public let riskTier: String?
        /// Why it is as it is.
        public let explain: Explain
        /// The ledger entry of this decision.
        public let evidenceEventID: String?
        /// The approval that can be waited for.
        public let approvalRequestID: String?
        /// The `x-request-id` of the gateway's answer; `nil` if it sent none.
        public let requestID: String?
        /// The whole decision as it came, a JSON object; a credential was taken out.
        public let json: String

        /// All members, also those that this version does not know, and numbers as they came. ``json`` is the text.
        public var members: [String: JSONValue] { JSONValue(checked: json).objectValue ?? [:] }

        /// A member by its name on the wire.
        public subscript(name: String) -> JSONValue? { members[name] }

        /// The word, the reason code and the summary: `deny (refund.too_large): the amount is over the limit`.
        public var description: String {
            let why = explain.summary.isEmpty ? "" : ": \(explain.summary)"
            return "\(word) (\(reasonCode))\(why)"
        }

        /// Reads a decision as an answer of a gateway is read, for tests: `Decision(["decision": "deny"])`.
        ///
        /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument`` for what is not a decision.
        public init(_ json: JSONValue) throws {
            self.init(try enter { try nativeDecision(json: json.json) })
        }

        init(_ native: NativeDecision) {
            word = Word(rawValue: native.word)
            reasonCode = native.reasonCode
            riskTier = native.riskTier
            explain = Explain(
                summary: native.summary, matchedRules: native.matchedRules, nextSteps: native.nextSteps)
            evidenceEventID = native.evidenceEventId
            approvalRequestID = native.approvalRequestId
            requestID = native.requestId
            json = native.json
        }

        /// The word of a decision. A gateway may send one that this version does not know; it runs nothing outside `monitor`.
        public enum Word: RawRepresentable, Sendable, Hashable, CustomStringConvertible {
            /// It may run.
            case allow
            /// It may not.
            case deny
            /// A person has to approve it first.
            case requireApproval
            /// The tool's definition changed since it was approved.
            case requireToolReapproval
            /// Enforce would not allow it; the request was in the mode `warn`.
            case warn
            /// Another word, as it came.
            case other(String)

            /// The word as it stands on the wire.
            public init(rawValue: String) {
                switch rawValue {
                case "allow": self = .allow
                case "deny": self = .deny
                case "require_approval": self = .requireApproval
                case "require_tool_reapproval": self = .requireToolReapproval
                case "warn": self = .warn
                default: self = .other(rawValue)
                }
            }

            /// The word as it stands on the wire.
            public var rawValue: String {
                switch self {
                case .allow: "allow"
                case .deny: "deny"
                case .requireApproval: "require_approval"
                case .requireToolReapproval: "require_tool_reapproval"
                case .warn: "warn"
                case .other(let word): word
                }
            }

            /// The word as it stands on the wire.
            public var description: String { rawValue }
        }

        /// Why a decision is as it is.
        public struct Explain: Sendable, Hashable {
            /// A sentence; empty where there is none.
            public let summary: String
            /// The rules that matched; empty if the gateway sent none.
            public let matchedRules: [String]
            /// What can be done about it, in sentences; empty if the gateway sent none.
            public let nextSteps: [String]
        }
    }

    /// A secret that the gateway's vault holds for a tool. It shows itself to nobody who does not ask for ``token``.
    public struct Credential: Sendable, Hashable, CustomStringConvertible {
        let hiddenToken: Secret
        let hiddenJSON: Secret
        /// When it ends, as the gateway wrote it.
        public let expiresAt: String?

        /// The secret.
        public var token: String { hiddenToken.exposed }
        /// All members; the token is among them.
        public var members: [String: JSONValue] { JSONValue(checked: hiddenJSON.exposed).objectValue ?? [:] }
        /// Nothing of it.
        public var description: String { "Credential([redacted])" }

        /// Makes a credential, for tests.
        public init(token: String, expiresAt: String? = nil) {
            hiddenToken = Secret(token)
            hiddenJSON = Secret(JSONValue(["token": .string(token), "expires_at": .init(expiresAt)]).json)
            self.expiresAt = expiresAt
        }

        init(_ native: NativeCredential) {
            hiddenToken = native.token
            hiddenJSON = native.json
            expiresAt = native.expiresAt
        }
    }
}
