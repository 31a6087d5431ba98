internal import ActPassBridge

// The one door to the native library.

/// Makes a call that ends at once when its task is cancelled.
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

/// Makes a conversion.
func enter<T>(_ body: () throws -> T) throws -> T {
    do {
        return try body()
    } catch {
        throw converted(error)
    }
}

/// The error of the native library as the one that users know.
func converted(_ error: any Error) -> any Error {
    // What is no such error the generated code threw: a panic in the library, which it caught.
    guard let error = error as? NativeError else { return ActPassError(nativePanicked()) }
    switch error {
    case .Cancelled: return CancellationError()
    case .Failed(let failure): return ActPassError(failure)
    }
}

/// The error of an argument that cannot be sent; `steps` lead from it to the problem.
func argumentError(_ member: String, _ problem: String, at steps: [NativeStep] = []) -> ActPassError {
    ActPassError(nativeArgumentError(member: member, steps: steps, problem: problem))
}

/// What the error of a call says that nobody can cancel.
func failure(of error: any Error) -> ActPassError {
    (converted(error) as? ActPassError) ?? ActPassError(nativePanicked())
}

extension Duration {
    var inSeconds: Double {
        let (seconds, attoseconds) = components
        return Double(seconds) + Double(attoseconds) * 1e-18
    }
}
