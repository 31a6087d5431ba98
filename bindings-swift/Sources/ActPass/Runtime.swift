internal import ActPassBridge

// The bridge to the native library.

/// Runs a native call; cancelling the task cancels it immediately.
func call<T: Sendable>(_ body: @Sendable (NativeCancel) async throws -> T) async throws -> T {
    try Task.checkCancellation()
    let cancel = NativeCancel()
    do {
        return try await withTaskCancellationHandler {
            try await body(cancel)
        } onCancel: {
            cancel.cancel()
        }
    } catch {
        throw converted(error)
    }
}

/// Runs a synchronous native call.
func enter<T>(_ body: () throws -> T) throws -> T {
    do {
        return try body()
    } catch {
        throw converted(error)
    }
}

/// Converts an error of the native library to the public error.
func converted(_ error: any Error) -> any Error {
    // Any other error is a panic in the library, caught by the generated code.
    guard let error = error as? NativeError else { return ActPassError(nativePanicked()) }
    switch error {
    case .Cancelled: return CancellationError()
    case .Failed(let failure): return ActPassError(failure)
    }
}

/// Creates the error of an invalid argument; `steps` are the path to the problem.
func argumentError(_ member: String, _ problem: String, at steps: [NativeStep] = []) -> ActPassError {
    ActPassError(nativeArgumentError(member: member, steps: steps, problem: problem))
}

/// Converts the error of a call that cannot be cancelled.
func failure(of error: any Error) -> ActPassError {
    (converted(error) as? ActPassError) ?? ActPassError(nativePanicked())
}

extension Duration {
    var inSeconds: Double {
        let (seconds, attoseconds) = components
        return Double(seconds) + Double(attoseconds) * 1e-18
    }
}
