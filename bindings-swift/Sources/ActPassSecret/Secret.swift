/// A secret text (key, passport, credential) that printing redacts. Only ``exposed`` reveals it.
public struct Secret: Sendable, Hashable {
    /// The text.
    public let exposed: String

    /// Wraps a text.
    public init(_ text: String) { exposed = text }
}

extension Secret: CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
    /// `[redacted]`
    public var description: String { "[redacted]" }
    /// `[redacted]`
    public var debugDescription: String { description }
    /// Without children, so that `dump` and debuggers do not show the text.
    public var customMirror: Mirror { Mirror(self, children: EmptyCollection<Mirror.Child>()) }
}
