//! `actpass-bindgen LIBRARY SWIFT KOTLIN`: generates the Swift and Kotlin bindings of a library
//! into two folders.

use std::error::Error;

use uniffi_bindgen::bindings::{GenerateOptions, TargetLanguage, generate};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [library, swift, kotlin] = arguments.as_slice() else {
        return Err("usage: actpass-bindgen LIBRARY SWIFT KOTLIN".into());
    };
    for (language, folder) in [(TargetLanguage::Swift, swift), (TargetLanguage::Kotlin, kotlin)] {
        generate(GenerateOptions {
            languages: vec![language],
            source: library.into(),
            out_dir: folder.into(),
            ..GenerateOptions::default()
        })?;
    }
    Ok(())
}
