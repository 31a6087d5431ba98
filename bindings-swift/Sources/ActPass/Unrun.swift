/// A lazy sequence of the standard library: its body runs when somebody iterates. Only types that wrap a closure are among
/// them: of another `AsyncSequence` nobody can tell whether it waits to be run, or carries what comes by itself.
protocol Unrun {}

extension Unrun {
    /// The type without its parameters, for messages.
    var nameOfUnrun: String { String(String(describing: Self.self).prefix { $0 != "<" }) }
}

/// Refuses a result whose body runs only when somebody iterates: nothing has run.
func refuseUnrun<Value>(_ value: Value) throws {
    guard let unrun = value as? any Unrun else { return }
    throw argumentError(
        "execute", "expected a result, found a \(unrun.nameOfUnrun), whose body has not run and never will")
}

// `lazy.flatMap` is one of these around another type.
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
