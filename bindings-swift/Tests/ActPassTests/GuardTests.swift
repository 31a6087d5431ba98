import XCTest
import ActPass
final class GuardTests: XCTestCase { func testX() throws { _ = try ActPass(apiKey: "apk_x") } }
