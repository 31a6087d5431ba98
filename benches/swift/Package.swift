// swift-tools-version: 6.0
import PackageDescription

let package = Package(
    name: "worker",
    platforms: [.macOS(.v13)],
    dependencies: [.package(name: "ActPass", path: "../../bindings-swift")],
    targets: [.executableTarget(name: "worker", dependencies: ["ActPass"])],
    swiftLanguageModes: [.v6]
)
