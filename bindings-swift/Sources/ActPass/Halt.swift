internal import ActPassBridge

/// Signals a running closure that its action was stopped.
public typealias HaltSignal = ActPass.HaltSignal

/// A part of a closure was cancelled because its action was stopped.
public typealias HaltedError = ActPass.HaltedError

extension ActPass {
    /// Signals a running closure that its action was stopped: ``ExecutionContext/halt``.
    ///
    /// The closure decides what to do: it can finish, or end early. It is signalled if it has run for longer than a
    /// second, or if another response shows the stop; the gateway must support stops. Nothing is cancelled unless the
    /// closure uses ``cancelling(_:)``.
    public struct HaltSignal: Sendable, Hashable {
        private let native: NativeHaltSignal?

        /// Creates a signal that is never set, for tests.
        public init() { native = nil }

        init(_ native: NativeHaltSignal) { self.native = native }

        /// Whether the action was stopped. Never becomes `false` again.
        public var isHalted: Bool { native?.isHalted() ?? false }

        /// Calls `notify` once when the action is stopped, immediately if it is already. The call comes from the SDK's
        /// background thread, so it must not block.
        public func onHalt(_ notify: @escaping @Sendable () -> Void) { native?.onHalt(listener: Listener(notify)) }

        /// Waits until the action is stopped.
        ///
        /// - Throws: `CancellationError` if the task was cancelled before.
        public func wait() async throws {
            let (stream, continuation) = AsyncStream<Never>.makeStream()
            onHalt { continuation.finish() }
            for await _ in stream {}
            withExtendedLifetime(continuation) {}
            if !isHalted { try Task.checkCancellation() }
        }

        /// Runs `part`, a part of the closure that may be stopped at any point; cancels it if the action is stopped.
        ///
        /// - Throws: ``HaltedError`` if it was cancelled; the outcome of the guard reports it as the closure's error.
        ///   Otherwise the error of `part`.
        public func cancelling<Value: Sendable>(
            _ part: @escaping @Sendable () async throws -> Value
        ) async throws -> Value {
            try await withThrowingTaskGroup(of: Value?.self) { group in
                group.addTask { try await part() }
                group.addTask {
                    try await wait()
                    return nil
                }
                defer { group.cancelAll() }
                guard let first = try await group.next(), let value = first else { throw HaltedError() }
                return value
            }
        }

        /// Whether both signals are of the same run of a closure.
        public static func == (left: Self, right: Self) -> Bool { left.native === right.native }

        /// Hashes the identity.
        public func hash(into hasher: inout Hasher) { hasher.combine(native.map(ObjectIdentifier.init)) }
    }

    /// A part of a closure was cancelled because its action was stopped: ``HaltSignal/cancelling(_:)``.
    public struct HaltedError: Error, Sendable, Hashable, CustomStringConvertible {
        /// Creates an instance, for tests.
        public init() {}

        /// The message.
        public var description: String { "the action was stopped" }
    }
}

private final class Listener: NativeHaltListener {
    private let notify: @Sendable () -> Void

    init(_ notify: @escaping @Sendable () -> Void) { self.notify = notify }

    func halted() { notify() }
}
