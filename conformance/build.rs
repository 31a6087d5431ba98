//! Embeds `tests/vectors`: the program needs no other file.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let variable = |name| env::var_os(name).map(PathBuf::from).ok_or_else(|| io::Error::other(name));
    let root = variable("CARGO_MANIFEST_DIR")?.join("../tests/vectors");
    println!("cargo::rerun-if-changed={}", root.display());

    let mut vectors = Vec::new();
    for area in entries(&root)?.into_iter().filter(|path| path.is_dir()) {
        println!("cargo::rerun-if-changed={}", area.display());
        vectors
            .extend(entries(&area)?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "json")));
    }
    vectors.sort();

    let mut code = "pub(crate) const VECTORS: &[(&str, &str)] = &[\n".to_owned();
    for path in vectors {
        let name = path.strip_prefix(&root).map_err(io::Error::other)?.with_extension("");
        writeln!(code, "    ({:?}, include_str!({:?})),", name, path.canonicalize()?)
            .map_err(io::Error::other)?;
    }
    code.push_str("];\n");
    fs::write(variable("OUT_DIR")?.join("vectors.rs"), code)
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect()
}
