internal import ActPassBridge

extension ActPass {
    /// Appends an application event to a chain of the gateway's tamper-evident ledger.
    ///
    /// - Parameters:
    ///   - eventType: The type of the event; any name.
    ///   - chainID: The chain; its first event creates it.
    ///   - toolID: The tool.
    ///   - decision: The decision that preceded the event.
    ///   - reasonCode: The reason code of that decision.
    ///   - metadata: Additional members, a JSON object.
    ///   - requestHash: ``hashPayload(_:)-(JSONValue)`` of the request.
    ///   - responseHash: ``hashPayload(_:)-(JSONValue)`` of the response.
    /// - Throws: ``ActPassError``, as ``preflight(_:)``; `CancellationError`. The call is not retried if the gateway
    ///   may have processed it.
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

    /// A recorded event of the ledger.
    public struct RecordedEvidence: Sendable, Hashable {
        /// Its id in the ledger.
        public let eventID: String
        /// Its hash, which the next event of the chain includes.
        public let currentEventHash: String?
        /// The complete response, a JSON object.
        public let json: String

        /// Creates an instance, for tests.
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
