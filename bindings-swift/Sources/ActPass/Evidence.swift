internal import ActPassBridge

extension ActPass {
    /// Appends an event of your own to a chain of the gateway's tamper-evident ledger.
    ///
    /// - Parameters:
    ///   - eventType: What happened, by your own naming.
    ///   - chainID: The chain; it begins with its first event.
    ///   - toolID: The tool.
    ///   - decision: The word of the decision that it followed.
    ///   - reasonCode: That decision's reason code.
    ///   - metadata: Anything else, a JSON object.
    ///   - requestHash: ``hashPayload(_:)-(JSONValue)`` of what was asked for.
    ///   - responseHash: ``hashPayload(_:)-(JSONValue)`` of what came out of it.
    /// - Throws: ``ActPassError``, as ``preflight(_:)``; `CancellationError`. The call is not repeated where the gateway may have
    ///   taken it.
    public func recordEvidence(
        _ eventType: String,
        chainID: String,
        toolID: String? = nil,
        decision: String? = nil,
        reasonCode: String? = nil,
        metadata: JSONValue? = nil,
        requestHash: String? = nil,
        responseHash: String? = nil
    ) async throws -> RecordedEvidence {
        let native = native
        let event = NativeEvent(
            eventType: eventType, chainId: chainID, toolId: toolID, decision: decision, reasonCode: reasonCode,
            metadata: metadata?.json, requestHash: requestHash, responseHash: responseHash)
        return RecordedEvidence(try await call { try await native.recordEvidence(event: event, cancel: $0) })
    }

    /// An event that is in the ledger.
    public struct RecordedEvidence: Sendable, Hashable {
        /// Its name there.
        public let eventID: String
        /// Its hash, which the next event of the chain covers.
        public let currentEventHash: String?
        /// The whole answer, a JSON object.
        public let json: String

        /// Makes one, for tests.
        public init(eventID: String, currentEventHash: String? = nil) {
            self.eventID = eventID
            self.currentEventHash = currentEventHash
            json = JSONValue(["event_id": .string(eventID), "current_event_hash": .init(currentEventHash)]).json
        }

        init(_ native: NativeRecorded) {
            eventID = native.eventId
            currentEventHash = native.currentEventHash
            json = native.json
        }
    }
}
