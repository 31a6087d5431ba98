// swift-tools-version: 6.0
import PackageDescription

// The native library, which is built from `bindings-uniffi`. On Apple's platforms it is an XCFramework, which
// `scripts/xcframework` here assembles; elsewhere it lies in `Native/`, where `make swift` puts it.
#if canImport(Darwin)
// Set by `scripts/xcframework --release`; nil in the sources, whose XCFramework is a folder.
let released: (url: String, checksum: String)? = nil
let native: Target =
    released.map { .binaryTarget(name: "ActPassFFI", url: $0.url, checksum: $0.checksum) }
    ?? .binaryTarget(name: "ActPassFFI", path: "ActPassFFI.xcframework")
let linking: [LinkerSetting] = []
#else
let folder = Context.environment["ACTPASS_NATIVE"] ?? Context.packageDirectory + "/Native"
let native: Target = .systemLibrary(name: "ActPassFFI")
// SwiftPM takes such flags in a package that is depended on by path, as this one is on Linux.
let linking: [LinkerSetting] = [.unsafeFlags(["-L\(folder)", "-Xlinker", "-rpath", "-Xlinker", folder])]
#endif

let package = Package(
    name: "ActPass",
    platforms: [.macOS(.v13), .iOS(.v16)],
    products: [
        .library(name: "ActPass", targets: ["ActPass"]),
        .library(name: "ActPassTesting", targets: ["ActPassTesting"]),
    ],
    targets: [
        native,
        .target(
            name: "ActPassBridge",
            dependencies: ["ActPassFFI", "ActPassSecret"],
            path: "Generated",
            exclude: ["ActPassFFI.h", "ActPassFFI.modulemap"],
            linkerSettings: linking
        ),
        .target(name: "ActPassSecret"),
        .target(name: "ActPass", dependencies: ["ActPassBridge", "ActPassSecret"]),
        .target(name: "ActPassTesting", dependencies: ["ActPass", "ActPassBridge"]),
        .testTarget(
            name: "ActPassTests", dependencies: ["ActPass", "ActPassBridge", "ActPassSecret", "ActPassTesting"]),
    ],
    swiftLanguageModes: [.v6]
)
