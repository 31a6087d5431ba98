/// A text that no form of printing shows: a key, a passport or a credential. Only ``exposed`` gives it.
public struct Secret: Sendable, Hashable {
    /// The text.
    public let exposed: String

    /// Hides a text.
    public init(_ text: String) { exposed = text }
}

extension Secret: CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
    /// `[redacted]`
    public var description: String { "[redacted]" }
    /// `[redacted]`
    public var debugDescription: String { description }
    /// Without children, so that neither `dump` nor a debugger shows the text.
    public var customMirror: Mirror { Mirror(self, children: EmptyCollection<Mirror.Child>()) }
}
