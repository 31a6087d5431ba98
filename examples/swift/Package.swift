// swift-tools-version: 6.0
import PackageDescription

let package = Package(
    name: "refund",
    platforms: [.macOS(.v13)],
    dependencies: [.package(name: "ActPass", path: "../../bindings-swift")],
    targets: [.executableTarget(name: "refund", dependencies: ["ActPass"])],
    swiftLanguageModes: [.v6]
)
