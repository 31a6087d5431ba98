/// A lazy sequence of the standard library, whose body runs on iteration. Only types that wrap a closure conform:
/// another `AsyncSequence` may carry values that arrive by themselves.
protocol Unrun {}

extension Unrun {
    /// The type name without generic parameters, for messages.
    var nameOfUnrun: String { String(String(describing: Self.self).prefix { $0 != "<" }) }
}

/// Rejects a result whose body runs only on iteration, because nothing ran.
func refuseUnrun<Value>(_ value: Value) throws {
    guard let unrun = value as? any Unrun else { return }
    throw argumentError(
        "execute", "expected a result, found a \(unrun.nameOfUnrun), which has not run")
}

// `lazy.flatMap` returns one of these.
extension LazySequence: Unrun {}
extension LazyMapSequence: Unrun {}
extension LazyFilterSequence: Unrun {}
extension LazyDropWhileSequence: Unrun {}
extension LazyPrefixWhileSequence: Unrun {}
extension UnfoldSequence: Unrun {}

extension AsyncMapSequence: Unrun {}
extension AsyncThrowingMapSequence: Unrun {}
extension AsyncCompactMapSequence: Unrun {}
extension AsyncThrowingCompactMapSequence: Unrun {}
extension AsyncFlatMapSequence: Unrun {}
extension AsyncThrowingFlatMapSequence: Unrun {}
extension AsyncFilterSequence: Unrun {}
extension AsyncThrowingFilterSequence: Unrun {}
extension AsyncDropWhileSequence: Unrun {}
extension AsyncThrowingDropWhileSequence: Unrun {}
extension AsyncPrefixWhileSequence: Unrun {}
extension AsyncThrowingPrefixWhileSequence: Unrun {}
