import ActPass
import Foundation
import XCTest

/// The passports of `tests/passports/vectors.json`, verified offline.
final class PassportVectorTests: XCTestCase {
    func testVerifiesPassportVectors() async throws {
        let path = URL(fileURLWithPath: #filePath).appendingPathComponent("../../../../tests/passports/vectors.json").standardized
        let file = try JSONValue(parsing: String(contentsOf: path, encoding: .utf8))
        let audience = try XCTUnwrap(file["audience"]?.stringValue)
        let cases = try XCTUnwrap(file["cases"]?.arrayValue)
        XCTAssertEqual(cases.count, 56)
        for vector in cases {
            let keys = try XCTUnwrap(vector["keys"] ?? file["keys"])
            let gateway = try Hostile.play(steps: ["do": "respond", "json": ["keys": keys]])
            defer { gateway.stop() }
            let client = try ActPass(apiKey: "apk_vector_secret", baseURL: gateway.baseURL)
            let token = try XCTUnwrap(vector["token"]?.stringValue)
            let found = try await client.verifyPassportOffline(token, audience: audience, issuer: file["issuer"]?.stringValue)
            let expected = vector["errors"]?.arrayValue?.compactMap(\.stringValue)
            XCTAssertEqual(found.errors, expected, "\(vector["description"] ?? .null)")
            XCTAssertEqual(found.isValid, found.errors.isEmpty)
        }
    }
}
