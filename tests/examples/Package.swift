// swift-tools-version: 6.0
import Foundation
import PackageDescription

// The library with the calls of the tests is used where it is built already.
let native = ProcessInfo.processInfo.environment["ACTPASS_NATIVE"] ?? ""
let package = Package(
    name: "Examples",
    platforms: [.macOS(.v14)],
    dependencies: [.package(name: "ActPass", path: "BINDINGS")],
    targets: [
        .executableTarget(
            name: "Examples",
            dependencies: [
                .product(name: "ActPass", package: "ActPass"), .product(name: "ActPassTesting", package: "ActPass"),
            ])
    ]
)
