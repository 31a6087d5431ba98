import Foundation
internal import ActPassBridge

/// A JSON value. Create it from a literal:
///
/// ```swift
/// import ActPass
///
/// let args: JSONValue = ["amount": 4900, "currency": "usd", "tags": ["late", nil]]
/// print(args)
/// ```
///
/// or from variables, which may be optional (`nil` becomes `null`):
///
/// ```swift
/// import ActPass
/// import Foundation
///
/// let (cents, note, due) = (4900, String?.none, Date(timeIntervalSince1970: 1_750_000_000))
/// var order: JSONValue = ["amount": .init(cents), "note": .init(note), "due": .init(due)]
/// order["customer"]["name"] = "Ada"
/// print(order)
/// // {"amount":4900,"customer":{"name":"Ada"},"due":"2025-06-15T15:06:40Z","note":null}
/// ```
///
/// Numbers keep their text, so the gateway's numbers are exact.
public enum JSONValue: Sendable, Hashable {
    /// `null`
    case null
    /// `true` or `false`
    case bool(Bool)
    /// A number.
    case number(JSONNumber)
    /// A string.
    case string(String)
    /// An array.
    case array([JSONValue])
    /// An object.
    case object([String: JSONValue])

    /// A boolean.
    public init(_ value: Bool) { self = .bool(value) }
    /// A boolean or `null`.
    public init(_ value: Bool?) { self = value.map { .bool($0) } ?? .null }
    /// A whole number.
    public init(_ value: some BinaryInteger) { self = .number(JSONNumber(value)) }
    /// A whole number or `null`.
    public init(_ value: (some BinaryInteger)?) { self = value.map { .number(JSONNumber($0)) } ?? .null }
    /// A number. NaN and infinity are not JSON: a call with them throws an error that names the path.
    public init(_ value: Double) { self = .number(JSONNumber(value)) }
    /// A number or `null`.
    public init(_ value: Double?) { self = value.map { .number(JSONNumber($0)) } ?? .null }
    /// A number, with the digits of its description.
    public init(_ value: Float) { self = .number(JSONNumber(text: "\(value)")) }
    /// A number or `null`.
    public init(_ value: Float?) { self = value.map { JSONValue($0) } ?? .null }
    /// A decimal number, exact.
    public init(_ value: Decimal) { self = .number(JSONNumber(text: value.description)) }
    /// A decimal number or `null`.
    public init(_ value: Decimal?) { self = value.map { JSONValue($0) } ?? .null }
    /// A string.
    public init(_ value: some StringProtocol) { self = .string(String(value)) }
    /// A string or `null`.
    public init(_ value: (some StringProtocol)?) { self = value.map { .string(String($0)) } ?? .null }
    /// An ISO 8601 date in UTC: `2026-03-14T15:09:26Z`, with milliseconds if not zero. A date outside the years 1583 to
    /// 9999 becomes NaN, so that a call with it throws.
    public init(_ value: Date) { self = value.iso8601.map { .string($0) } ?? .init(Double.nan) }
    /// An ISO 8601 date or `null`.
    public init(_ value: Date?) { self = value.map { JSONValue($0) } ?? .null }
    /// The text of a UUID, in lower case.
    public init(_ value: UUID) { self = .string(value.uuidString.lowercased()) }
    /// The text of a UUID or `null`.
    public init(_ value: UUID?) { self = value.map { JSONValue($0) } ?? .null }
    /// The text of a URL.
    public init(_ value: URL) { self = .string(value.absoluteString) }
    /// The text of a URL or `null`.
    public init(_ value: URL?) { self = value.map { JSONValue($0) } ?? .null }
    /// The value itself.
    public init(_ value: JSONValue) { self = value }
    /// The value itself or `null`.
    public init(_ value: JSONValue?) { self = value ?? .null }
    /// An array.
    public init(_ items: [JSONValue]) { self = .array(items) }
    /// An array of strings.
    public init(_ items: [some StringProtocol]) { self = .array(items.map { .string(String($0)) }) }
    /// An array of whole numbers.
    public init(_ items: [some BinaryInteger]) { self = .array(items.map { .number(JSONNumber($0)) }) }
    /// An array of numbers.
    public init(_ items: [Double]) { self = .array(items.map { .number(JSONNumber($0)) }) }
    /// An object.
    public init(_ members: [String: JSONValue]) { self = .object(members) }
    /// An object of strings.
    public init(_ members: [String: some StringProtocol]) {
        self = .object(members.mapValues { .string(String($0)) })
    }

    /// Encodes an `Encodable` value.
    ///
    /// - Parameters:
    ///   - value: The value.
    ///   - encoder: The encoder. Default: a `JSONEncoder` that encodes dates like ``init(_:)-(Date)``.
    /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument`` if it cannot be encoded; the message names
    ///   the path: `value.order.price: …`.
    public init(encoding value: some Encodable, with encoder: JSONEncoder? = nil) throws {
        try self.init(encoding: value, as: "value", with: encoder)
    }

    init(encoding value: some Encodable, as member: String, with encoder: JSONEncoder? = nil) throws {
        if let value = value as? JSONValue {
            self = value
            return
        }
        let text: String
        do {
            text = String(decoding: try (encoder ?? .actPass).encode(value), as: UTF8.self)
        } catch EncodingError.invalidValue(let found, let context) {
            throw argumentError(member, Self.problem(found, context), at: context.codingPath.map(\.step))
        } catch {
            throw argumentError(member, "cannot be encoded: \(error)")
        }
        try self.init(parsing: text, as: member)
    }

    private static func problem(_ found: Any, _ context: EncodingError.Context) -> String {
        switch found {
        case let number as Double where !number.isFinite: nativeNotFinite(number: number)
        case let number as Float where !number.isFinite: nativeNotFinite(number: Double(number))
        default: "cannot be encoded: \(context.debugDescription)"
        }
    }

    /// Parses JSON text.
    ///
    /// - Throws: ``ActPassError`` of the kind ``ActPassError/Kind/argument`` if the text is not exactly one value, has
    ///   a duplicate key or more than 128 levels.
    public init(parsing text: String) throws {
        try self.init(parsing: text, as: "json")
    }

    private init(parsing text: String, as member: String) throws {
        let native = try enter { try nativeParseJson(member: member, text: text) }
        var collides = false
        self.init(native, collides: &collides)
        if collides {
            throw argumentError(member, "expected unique keys, found two that are equal in Unicode")
        }
    }

    /// Parses a text that the core wrote.
    init(checked text: String) {
        var collides = false
        self = (try? nativeParseJson(member: "json", text: text)).map { JSONValue($0, collides: &collides) } ?? .null
    }

    /// The JSON text, with object members sorted by name.
    public var json: String {
        var text = ""
        write(to: &text)
        return text
    }

    /// Decodes a `Decodable` value; dates are ISO 8601.
    ///
    /// ```swift
    /// import ActPass
    ///
    /// struct Refund: Decodable { var amount: Int; var currency: String }
    /// let args: JSONValue = ["amount": 4900, "currency": "usd"]
    /// let refund = try args.decoded(as: Refund.self)
    /// print(refund.amount)
    /// ```
    ///
    /// - Throws: `DecodingError`, as `JSONDecoder` does.
    public func decoded<Value: Decodable>(as type: Value.Type = Value.self) throws -> Value {
        try JSONDecoder.actPass.decode(type, from: Data(json.utf8))
    }

    /// Whether it is `null`.
    public var isNull: Bool { self == .null }
    /// The boolean; `nil` for another type.
    public var boolValue: Bool? { if case .bool(let value) = self { value } else { nil } }
    /// The whole number; `nil` for another type or if it does not fit.
    public var intValue: Int? { if case .number(let value) = self { value.intValue } else { nil } }
    /// The number as the nearest double; `nil` for another type.
    public var doubleValue: Double? { if case .number(let value) = self { value.doubleValue } else { nil } }
    /// The exact number; `nil` for another type.
    public var decimalValue: Decimal? {
        if case .number(let value) = self { Decimal(string: value.description, locale: nil) } else { nil }
    }
    /// The date of an ISO 8601 string with a time zone; `nil` for another value.
    public var dateValue: Date? { stringValue.flatMap(Date.init(iso8601:)) }
    /// The string; `nil` for another type.
    public var stringValue: String? { if case .string(let value) = self { value } else { nil } }
    /// The items of an array; `nil` for another type.
    public var arrayValue: [JSONValue]? { if case .array(let value) = self { value } else { nil } }
    /// The members of an object; `nil` for another type.
    public var objectValue: [String: JSONValue]? { if case .object(let value) = self { value } else { nil } }

    /// A member of an object; `nil` if missing or not an object.
    ///
    /// Setting a member replaces a value that is not an object by one. `nil` removes the member; `.null` is a value.
    ///
    /// ```swift
    /// import ActPass
    ///
    /// var args: JSONValue = [:]
    /// args["order"]["amount"] = 4900
    /// args["order"]["note"] = .null
    /// print(args)
    /// // {"order":{"amount":4900,"note":null}}
    /// ```
    public subscript(name: String) -> JSONValue? {
        get { objectValue?[name] }
        set {
            var members = objectValue ?? [:]
            // Drop the second reference, so that setting does not copy.
            self = .null
            members[name] = newValue
            self = .object(members)
        }
    }

    /// An item of an array; `nil` if missing or not an array.
    ///
    /// Setting replaces the item; `nil` removes it. The index after the last appends.
    ///
    /// - Precondition: To set, the value is an array and the index is at most one past the last item.
    public subscript(index: Int) -> JSONValue? {
        get {
            guard let items = arrayValue, items.indices.contains(index) else { return Optional.none }
            return items[index]
        }
        set {
            guard var items = arrayValue else { preconditionFailure("expected an array, found \(json)") }
            self = .null
            switch newValue {
            case let item? where index == items.count: items.append(item)
            case let item?: items[index] = item
            case nil: items.remove(at: index)
            }
            self = .array(items)
        }
    }

}

extension JSONValue? {
    /// As ``JSONValue/subscript(_:)-(String)``; `nil` becomes an object when a member is set.
    public subscript(name: String) -> JSONValue? {
        get { self?[name] }
        set {
            if case (.none, .none) = (self, newValue) { return }
            var value = self ?? .null
            value[name] = newValue
            self = value
        }
    }

    /// As ``JSONValue/subscript(_:)-(Int)``.
    public subscript(index: Int) -> JSONValue? {
        get { self?[index] }
        set {
            var value = self ?? .array([])
            value[index] = newValue
            self = value
        }
    }
}

extension CodingKey {
    fileprivate var step: NativeStep {
        intValue.flatMap(UInt64.init(exactly:)).map { .index(at: $0) } ?? .key(name: stringValue)
    }
}

extension JSONEncoder {
    fileprivate static var actPass: JSONEncoder {
        let encoder = JSONEncoder()
        encoder.dateEncodingStrategy = .custom { date, encoder in
            var container = encoder.singleValueContainer()
            guard let text = date.iso8601 else {
                let problem = "expected a date of the years 1583 to 9999"
                throw EncodingError.invalidValue(
                    date, .init(codingPath: encoder.codingPath, debugDescription: problem))
            }
            try container.encode(text)
        }
        return encoder
    }
}

extension JSONDecoder {
    fileprivate static var actPass: JSONDecoder {
        let decoder = JSONDecoder()
        decoder.dateDecodingStrategy = .custom { decoder in
            let container = try decoder.singleValueContainer()
            guard let date = Date(iso8601: try container.decode(String.self)) else {
                throw DecodingError.dataCorruptedError(
                    in: container, debugDescription: "expected an ISO 8601 date")
            }
            return date
        }
        return decoder
    }
}

extension Date {
    fileprivate var iso8601: String? {
        guard (-12_212_553_600..<253_402_300_799.9995).contains(timeIntervalSince1970) else { return nil }
        let milliseconds = (timeIntervalSince1970 * 1000).rounded()
        let hasFraction = milliseconds.truncatingRemainder(dividingBy: 1000) != 0
        let rounded = Date(timeIntervalSince1970: milliseconds / 1000)
        return (hasFraction ? Date.ISO8601FormatStyle.fractional : .whole).format(rounded)
    }

    fileprivate init?(iso8601 text: String) {
        let styles = [Date.ISO8601FormatStyle.whole, .fractional]
        guard let date = styles.lazy.compactMap({ try? $0.parse(text) }).first else { return nil }
        self = date
    }
}

extension Date.ISO8601FormatStyle {
    fileprivate static var whole: Self { Self() }
    fileprivate static var fractional: Self { Self(includingFractionalSeconds: true) }
}

/// A JSON number with its exact text.
public struct JSONNumber: Sendable, Hashable, CustomStringConvertible {
    /// The text of the number.
    public let description: String

    /// A whole number.
    public init(_ value: some BinaryInteger) { description = String(value) }
    /// A number. NaN and infinity are not JSON: a call with them throws.
    public init(_ value: Double) { description = "\(value)" }
    init(text: some StringProtocol) { description = String(text) }

    /// The whole number; `nil` for another type or if it does not fit.
    public var intValue: Int? { Int(description) }
    /// The number as the nearest double.
    public var doubleValue: Double { Double(description) ?? .nan }
}

extension JSONNumber: ExpressibleByIntegerLiteral, ExpressibleByFloatLiteral {
    /// `4900`
    public init(integerLiteral value: Int) { self.init(value) }
    /// `49.5`
    public init(floatLiteral value: Double) { self.init(value) }
}

extension JSONValue: ExpressibleByNilLiteral, ExpressibleByBooleanLiteral, ExpressibleByIntegerLiteral,
    ExpressibleByFloatLiteral, ExpressibleByStringInterpolation, ExpressibleByArrayLiteral,
    ExpressibleByDictionaryLiteral
{
    /// `nil`, which is `null`.
    public init(nilLiteral: ()) { self = .null }
    /// `true`
    public init(booleanLiteral value: Bool) { self = .bool(value) }
    /// `4900`
    public init(integerLiteral value: Int) { self = .number(JSONNumber(value)) }
    /// `49.5`
    public init(floatLiteral value: Double) { self = .number(JSONNumber(value)) }
    /// `"usd"`
    public init(stringLiteral value: String) { self = .string(value) }
    /// `["late", nil]`
    public init(arrayLiteral items: JSONValue...) { self = .array(items) }
    /// `["amount": 4900]`; the last value of a duplicate key is used.
    public init(dictionaryLiteral members: (String, JSONValue)...) {
        self = .object(Dictionary(members) { _, last in last })
    }
}

extension JSONValue: CustomStringConvertible {
    /// The JSON text.
    public var description: String { json }
}

extension JSONValue: Codable {
    /// Decodes any value.
    public init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if container.decodeNil() {
            self = .null
        } else if let value = try? container.decode(Bool.self) {
            self = .bool(value)
        } else if let value = try? container.decode(Int64.self) {
            self = .number(JSONNumber(value))
        } else if let value = try? container.decode(UInt64.self) {
            self = .number(JSONNumber(value))
        } else if let value = try? container.decode(Double.self) {
            self = .number(JSONNumber(value))
        } else if let value = try? container.decode(String.self) {
            self = .string(value)
        } else if let value = try? container.decode([JSONValue].self) {
            self = .array(value)
        } else {
            self = .object(try container.decode([String: JSONValue].self))
        }
    }

    /// Encodes the value.
    public func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .null: try container.encodeNil()
        case .bool(let value): try container.encode(value)
        case .string(let value): try container.encode(value)
        case .array(let items): try container.encode(items)
        case .object(let members): try container.encode(members)
        case .number(let number):
            if let value = Int64(number.description) {
                try container.encode(value)
            } else if let value = UInt64(number.description) {
                try container.encode(value)
            } else {
                try container.encode(number.doubleValue)
            }
        }
    }
}

// MARK: - Text

extension JSONValue {
    /// Not recursive, so that deep nesting cannot overflow the stack; the core rejects values that are too deep.
    private func write(to text: inout String) {
        enum Piece {
            case value(JSONValue)
            case text(String)
        }
        var rest: [Piece] = [.value(self)]
        while let piece = rest.popLast() {
            switch piece {
            case .text(let piece): text += piece
            case .value(.null): text += "null"
            case .value(.bool(let value)): text += value ? "true" : "false"
            case .value(.number(let number)): text += number.description
            case .value(.string(let value)): Self.write(value, to: &text)
            case .value(.array(let items)):
                text += "["
                rest.append(.text("]"))
                for (at, item) in items.enumerated().reversed() {
                    rest.append(.value(item))
                    if at > 0 { rest.append(.text(",")) }
                }
            case .value(.object(let members)):
                text += "{"
                rest.append(.text("}"))
                let ordered = members.sorted { $0.key < $1.key }
                for (at, member) in ordered.enumerated().reversed() {
                    rest.append(.value(member.value))
                    var key = at > 0 ? "," : ""
                    Self.write(member.key, to: &key)
                    rest.append(.text(key + ":"))
                }
            }
        }
    }

    private static func write(_ string: String, to text: inout String) {
        text += "\""
        for scalar in string.unicodeScalars {
            switch scalar {
            case "\"": text += "\\\""
            case "\\": text += "\\\\"
            case "\n": text += "\\n"
            case "\r": text += "\\r"
            case "\t": text += "\\t"
            case _ where scalar.value < 0x20:
                let hex = String(scalar.value, radix: 16)
                text += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
            default: text.unicodeScalars.append(scalar)
            }
        }
        text += "\""
    }

    /// Converts a value that the core has parsed. Nesting is at most 128 levels.
    ///
    /// Two keys of an object can differ in JSON and still be the same `String`, which compares by canonical equivalence: then the
    /// first one stays, and `collides` becomes true.
    fileprivate init(_ native: NativeJson, collides: inout Bool) {
        switch native {
        case .null: self = .null
        case .bool(let value): self = .bool(value)
        case .number(let text): self = .number(JSONNumber(text: text))
        case .text(let value): self = .string(value)
        case .array(let items): self = .array(items.map { JSONValue($0, collides: &collides) })
        case .object(let natives):
            var members = [String: JSONValue](minimumCapacity: natives.count)
            for member in natives {
                if members[member.name] == nil {
                    members[member.name] = JSONValue(member.value, collides: &collides)
                } else {
                    collides = true
                }
            }
            self = .object(members)
        }
    }
}
