//! Links the addon as Node's hosts want it on each platform.

fn main() {
    napi_build::setup();
}
