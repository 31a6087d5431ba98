internal import ActPassBridge
internal import ActPassSecret

/// A decision of the gateway.
public typealias Decision = ActPass.Decision

/// A credential from the gateway's vault.
public typealias Credential = ActPass.Credential

extension ActPass {
    /// A decision of the gateway. Members without a property are in ``members``.
    public struct Decision: Sendable, Hashable, CustomStringConvertible {
        /// The value of the decision.
        public let word: Word
        /// The stable, dotted reason, such as `refund.small_in_scope`: branch and alert on it. `unspecified` if the
        /// gateway sent none.
        public let reasonCode: String
        /// The risk tier: `low`, `medium`, `high` or `critical`; `nil` if the gateway sent none.
        public let riskTier: String?
        /// The explanation.
        public let explain: Explain
        /// The ledger entry of this decision.
        public let evidenceEventID: String?
        /// The id of the approval request, if the action needs approval.
        public let approvalRequestID: String?
        /// The `x-request-id` of the gateway's response; `nil` if it sent none.
        public let requestID: String?
        /// The complete decision, a JSON object without the credential.
        public let json: String

        /// All members, including unknown ones; numbers are exact. ``json`` is the text.
        public var members: [String: JSONValue] { JSONValue(checked: json).objectValue ?? [:] }

        /// Returns a member by its wire name.
        public subscript(name: String) -> JSONValue? { members[name] }

        /// Decision, reason code and summary: `deny (refund.too_large): the amount is over the limit`.
        public var description: String {
            let why = explain.summary.isEmpty ? "" : ": \(explain.summary)"
            return "\(word) (\(reasonCode))\(why)"
        }

        /// Parses a decision like a response of the gateway, for tests: `Decision(["decision": "deny"])`.
        ///
        /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument`` if it is not a decision.
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

        /// The value of a decision. An unknown value blocks the action except in `monitor`.
        public enum Word: RawRepresentable, Sendable, Hashable, CustomStringConvertible {
            /// The action may run.
            case allow
            /// The action may not run.
            case deny
            /// The action needs human approval.
            case requireApproval
            /// The tool's definition changed since it was approved.
            case requireToolReapproval
            /// Enforce would block the action; the request was in the mode `warn`.
            case warn
            /// An unknown value.
            case other(String)

            /// The value on the wire.
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

            /// The value on the wire.
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

            /// The value on the wire.
            public var description: String { rawValue }
        }

        /// The explanation of a decision.
        public struct Explain: Sendable, Hashable {
            /// A sentence; empty if the gateway sent none.
            public let summary: String
            /// The rules that matched; empty if the gateway sent none.
            public let matchedRules: [String]
            /// What to do next, in sentences; empty if the gateway sent none.
            public let nextSteps: [String]
        }
    }

    /// A credential from the gateway's vault. Only ``token`` and ``members`` reveal it.
    public struct Credential: Sendable, Hashable, CustomStringConvertible {
        let hiddenToken: Secret
        let hiddenJSON: Secret
        /// When it expires, as sent by the gateway.
        public let expiresAt: String?

        /// The secret.
        public var token: String { hiddenToken.exposed }
        /// All members, including the token.
        public var members: [String: JSONValue] { JSONValue(checked: hiddenJSON.exposed).objectValue ?? [:] }
        /// `[redacted]`; never the content.
        public var description: String { "Credential([redacted])" }

        /// Creates a credential, for tests.
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
