/// A text that shows itself to nobody who does not ask for it by name.
struct Hidden: Sendable, Hashable, CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
    let exposed: String

    init(_ text: String) { exposed = text }

    var description: String { "[redacted]" }
    var debugDescription: String { description }
    var customMirror: Mirror { Mirror(self, children: EmptyCollection<Mirror.Child>()) }
}
