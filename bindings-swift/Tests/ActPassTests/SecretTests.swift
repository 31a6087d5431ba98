@testable import ActPassBridge
import ActPassSecret
import XCTest

/// Generated types never print the secrets that they store.
final class SecretTests: XCTestCase {
    func testGeneratedTypesHideSecrets() {
        let secret = Secret("generated_secret")
        let held: [Any] = [
            secret,
            NativeSettings(
                language: .swift, apiKey: secret, tenantId: nil, agentId: nil, baseUrl: nil, timeout: nil,
                connectTimeout: nil, maxRetries: nil, circuitFailures: nil, mode: nil, ca: nil, approvalKeys: nil,
                dpopKey: secret, dangerAllowInsecureHttp: false),
            NativeAction(
                goal: "g", tool: "t", resource: "", args: "{}", userId: nil, passport: secret, mode: nil,
                idempotencyKey: nil, audience: nil, approvalRequestId: nil, toolManifestHash: nil,
                waitForApproval: nil),
            NativeCredential(token: secret, expiresAt: nil, json: secret),
            NativeIssued(token: secret, json: secret),
            NativeVerifyRequest(
                token: secret, audience: "a", agentId: nil, userId: nil, currentToolManifestHash: nil, policyHash: nil),
            NativeOfflineVerifyRequest(token: secret, audience: "a", issuer: nil, agentId: nil, userId: nil, tenantId: nil),
        ]
        for value in held {
            XCTAssertFalse(everythingShown(value).contains("generated_secret"), "\(type(of: value))")
            XCTAssertFalse(reflected(value).contains("generated_secret"), "\(type(of: value))")
        }
    }

    /// Every text that `Mirror` reaches, at any depth.
    private func reflected(_ value: Any) -> String {
        Mirror(reflecting: value).children.map { "\($0.value) " + reflected($0.value) }.joined()
    }
}
