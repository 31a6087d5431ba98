//! Reading of user-written text files.

use std::path::Path;

use zeroize::Zeroizing;

const UTF_8_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads a UTF-8 text file as bytes, without a byte order mark.
///
/// # Errors
///
/// Returns an error if the file cannot be read or is UTF-16.
pub(crate) fn read_bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut bytes = Zeroizing::new(std::fs::read(path).map_err(|error| error.to_string())?);
    if bytes.starts_with(UTF_8_MARK) {
        bytes.drain(..UTF_8_MARK.len());
    }
    // UTF-16 starts with a byte order mark, or with an ASCII character next to a zero byte.
    let is_utf_16 = bytes.starts_with(b"\xff\xfe")
        || bytes.starts_with(b"\xfe\xff")
        || matches!(bytes.as_slice(), [0, 1..=127, ..] | [1..=127, 0, ..]);
    match is_utf_16 {
        true => Err("is UTF-16; save it as UTF-8".to_owned()),
        false => Ok(bytes),
    }
}

/// Same as [`read_bytes`], as text.
///
/// # Errors
///
/// Same as [`read_bytes`]; also if the file is not UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<Zeroizing<String>, String> {
    let bytes = read_bytes(path)?;
    let text = str::from_utf8(&bytes)
        .map_err(|error| format!("is not UTF-8: invalid byte {}", error.valid_up_to() + 1))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Returns whether anyone but the owner can read the file.
#[cfg(unix)]
pub(crate) fn is_open_to_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;

    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

/// Not determined on this platform.
#[cfg(not(unix))]
pub(crate) fn is_open_to_others(_path: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_utf8_with_bom_and_rejects_utf16() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("file");
        let utf_16 = |text: &str, order: fn(u16) -> [u8; 2]| -> Vec<u8> {
            text.encode_utf16().flat_map(order).collect()
        };
        for (bytes, expected) in [
            (b"\xef\xbb\xbfa = 1\r\n".to_vec(), Ok("a = 1\r\n")),
            (b"".to_vec(), Ok("")),
            (utf_16("\u{feff}a = 1", u16::to_le_bytes), Err("is UTF-16")),
            (utf_16("\u{feff}a = 1", u16::to_be_bytes), Err("is UTF-16")),
            (utf_16("a = 1", u16::to_le_bytes), Err("is UTF-16")),
            (utf_16("a = 1", u16::to_be_bytes), Err("is UTF-16")),
            (b"a\xff".to_vec(), Err("is not UTF-8: invalid byte 2")),
        ] {
            std::fs::write(&file, &bytes).unwrap();
            match (read_text(&file), expected) {
                (Ok(text), Ok(expected)) => assert_eq!(text.as_str(), expected),
                (Err(problem), Err(expected)) => assert!(problem.contains(expected), "{problem}"),
                (found, _) => panic!("{bytes:?}: {found:?}"),
            }
        }
    }
}
